"""Every expert wherever it is, and those that others serve: any URL that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from symmoe.config import ExpertConfig, Pool
from symmoe.types import Generation, Query

from .events import Asked, Begun, EngineState, Event, Finished, Piece, TurnedAway
from .experts import Experts

_LONGEST_LINE = 1 << 20
_REASONS = ("stop", "length", "content_filter")


class PoolExperts:
    """Every expert of a pool: those that `replicas` run in turns, if any do, the `dedicated` and the remote ones."""

    def __init__(
        self,
        pool: Pool,
        replicas: Experts | None,
        dedicated: Mapping[str, Experts] | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        remote = [expert for expert in pool.experts if expert.remote is not None]
        client = client or httpx.AsyncClient(follow_redirects=False)
        self._remote = {expert.name: RemoteExpert(expert, client) for expert in remote}
        self._replicas, self._dedicated = replicas, dedicated or {}

    def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request, wherever its expert is."""
        expert = self._remote.get(asked.expert) or self._dedicated.get(asked.expert) or self._replicas
        return _nobody(asked) if expert is None else expert.ask(asked)

    async def warm(self) -> bool:
        """Whether a replica is; where only dedicated experts have engines, one of theirs; else nothing need be."""
        if self._replicas is not None:
            return await self._replicas.warm()
        found = await asyncio.gather(*(each.warm() for each in self._dedicated.values()))
        return any(found) or not found

    async def engines(self) -> list[EngineState]:
        """What the engines of all replicas are at."""
        everyone = [*([] if self._replicas is None else [self._replicas]), *self._dedicated.values()]
        return [state for found in await asyncio.gather(*(each.engines() for each in everyone)) for state in found]


async def _nobody(asked: Asked) -> AsyncGenerator[Event, None]:
    yield TurnedAway(503, "expert_unavailable", f"nothing here runs the expert {asked.expert!r}", 30.0)


class RemoteExpert:
    """One expert at a URL out of the pool file. Its key is read from the environment and told to nobody."""

    def __init__(self, expert: ExpertConfig, client: httpx.AsyncClient) -> None:
        if expert.remote is None:
            raise ValueError(f"{expert.name} is not remote")
        self._name, self._remote, self._client = expert.name, expert.remote, client
        self._model = expert.remote.model or expert.model

    async def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request. Whatever goes wrong there ends it with a `TurnedAway` that names the expert."""
        began = time.monotonic()
        body = _body(self._model, asked.query)
        url = f"{self._remote.url.rstrip('/')}/chat/completions"
        timeout = httpx.Timeout(self._remote.timeout, connect=10.0)
        said = _Said()
        try:
            async with self._client.stream(
                "POST", url, json=body, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status_code != 200:
                    yield self._refused(response)
                    return
                yield Begun(time.monotonic() - began, 0.0, "resident", False)
                async for chunk in _chunks(response):
                    text = said.take(chunk)
                    if text and asked.stream:
                        yield Piece(text)
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            message = f"expert {self._name!r} did not answer: {type(error).__name__}"
            yield TurnedAway(503, "expert_unavailable", message, 1.0, again=isinstance(error, httpx.TransportError))
            return
        yield (
            Finished(said.generation())
            if said.reason
            else TurnedAway(503, "expert_unavailable", f"expert {self._name!r} broke off", 1.0)
        )

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._remote.key_env, "") if self._remote.key_env else ""
        return {"authorization": f"Bearer {key}"} if key else {}

    def _refused(self, response: httpx.Response) -> TurnedAway:
        """A client learns the status and no more: what a remote says may hold what is not the client's to know."""
        busy = response.status_code == 429
        after = response.headers.get("retry-after", "")
        message = f"expert {self._name!r} answered with status {response.status_code}"
        seconds = float(after) if after.isascii() and after.isdigit() else 1.0
        return TurnedAway(429 if busy else 503, "overloaded" if busy else "expert_unavailable", message, seconds)


class _Said:
    """What a stream has said so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.reason = ""
        self._prompt = self._completion = 0

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Note one chunk; the text that it adds."""
        usage = chunk.get("usage") or {}
        self._prompt = int(usage.get("prompt_tokens", self._prompt))
        self._completion = int(usage.get("completion_tokens", self._completion))
        text = ""
        for choice in chunk.get("choices") or []:
            text += (choice.get("delta") or {}).get("content") or ""
            self.reason = choice.get("finish_reason") or self.reason
        self._texts.append(text)
        return text

    def generation(self) -> Generation:
        """All of it."""
        reason = self.reason if self.reason in _REASONS else "stop"
        return Generation("".join(self._texts), reason, self._prompt, self._completion)


async def _chunks(response: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON documents of a stream of events. Raises `ValueError` for what is none."""
    async for line in response.aiter_lines():
        if len(line) > _LONGEST_LINE:
            raise ValueError("a line is too long")
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            document = json.loads(data)
            if not isinstance(document, dict) or "error" in document:
                raise ValueError("an error in the stream")
            yield document


def _body(model: str, query: Query) -> dict[str, Any]:
    sampling = query.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in query.messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.schema:
        form = {"name": "answer", "schema": json.loads(sampling.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body
