"""Every expert of a pool, local or remote; remote ones are at any URL that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from symmoe.aggregation.extraction import encodable
from symmoe.config import ExpertConfig, Pool
from symmoe.engines.arguments import SAME_TO_VLLM, format_fields
from symmoe.limits import (
    REMOTE_BODY_BYTES,
    REMOTE_BYTES_A_TOKEN,
    REMOTE_LINE_BYTES,
    REMOTE_RETRY_SECONDS,
    REMOTE_TEMPLATE_TOKENS,
)
from symmoe.tools import worded
from symmoe.types import Generation, Message, Query, Sampling, TokenLogprob

from .events import NOT_TAKEN, REASONS, Asked, Begun, End, EngineState, Finished, Piece, Tell, TurnedAway
from .experts import Experts

_UNSENT = httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError
"""What happens before a request is sent."""


class PoolExperts:
    """Every expert of a pool: those that share `replicas`, if any, the `dedicated` and the remote ones."""

    def __init__(
        self,
        pool: Pool,
        replicas: Experts | None,
        dedicated: Mapping[str, Experts] | None = None,
    ) -> None:
        remote = [expert for expert in pool.experts if expert.remote is not None]
        # as many connections as requests are open: who waits for one remote's answer holds up no other's
        client = httpx.AsyncClient(follow_redirects=False, limits=httpx.Limits(max_connections=None))
        self._remote = {expert.name: RemoteExpert(expert, client) for expert in remote}
        self._replicas, self._dedicated = replicas, dedicated or {}

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """See `Experts.ask`; the expert may be remote, dedicated, or one of those that share replicas."""
        expert = self._remote.get(asked.expert) or self._dedicated.get(asked.expert) or self._replicas
        if expert is None:
            return TurnedAway(503, "expert_unavailable", f"nothing here runs the expert {asked.expert!r}", 30.0)
        return await expert.ask(asked, tell)

    async def warm(self) -> bool:
        """Whether a replica is warm; without replicas, a dedicated expert; True if there are neither."""
        if self._replicas is not None:
            return await self._replicas.warm()
        states = await asyncio.gather(*(each.warm() for each in self._dedicated.values()))
        return any(states) or not states

    async def engines(self) -> list[EngineState]:
        """The state of every replica's engine."""
        everyone = [*([] if self._replicas is None else [self._replicas]), *self._dedicated.values()]
        return [state for states in await asyncio.gather(*(each.engines() for each in everyone)) for state in states]


class RemoteExpert:
    """One expert at a URL in the pool file. Its key is read from the environment and passed to nobody else."""

    def __init__(self, expert: ExpertConfig, client: httpx.AsyncClient) -> None:
        if expert.remote is None:
            raise ValueError(f"{expert.name} is not remote")
        self._name, self._remote, self._client = expert.name, expert.remote, client
        self._model = expert.remote.model or expert.model

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """See `Experts.ask`. Every failure there becomes a `TurnedAway` that names the expert."""
        began = time.monotonic()
        body = _body(self._model, asked.query)
        url = f"{self._remote.url.rstrip('/')}/chat/completions"
        timeout = httpx.Timeout(self._remote.timeout, connect=10.0)
        answer, tell_piece = _Stream(asked.query), tell if asked.stream else lambda piece: None
        try:
            async with self._client.stream(
                "POST", url, json=body, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status_code != 200:
                    return self._refused(response)
                if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                    raise ValueError("an encoding that was not asked for")
                tell(Begun(time.monotonic() - began, 0.0, "resident", False))
                async for received in response.aiter_bytes():
                    answer.feed(received, tell_piece)
                answer.feed(b"\n", tell_piece)  # the last line need not end
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"expert {self._name!r} did not answer: {type(error).__name__}"
            again = isinstance(error, httpx.TransportError if self._remote.resend else _UNSENT)
            return TurnedAway(503, "expert_unavailable", message, 1.0, again=again)
        if not answer.reason:
            return TurnedAway(503, "expert_unavailable", f"expert {self._name!r} broke off", 1.0)
        return Finished(answer.generation())

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._remote.key_env, "") if self._remote.key_env else ""
        plain = {"accept-encoding": "identity"}  # a few compressed bytes would become gigabytes here
        return {**plain, "authorization": f"Bearer {key}"} if key else plain

    def _refused(self, response: httpx.Response) -> TurnedAway:
        """A client learns the status and no more: what a remote says may hold what is not the client's to know.

        A request that it does not take says nothing of the expert, and asking again changes nothing.
        """
        if response.status_code in (400, 413, 422):
            message = f"expert {self._name!r} does not take this request (status {response.status_code})"
            return TurnedAway(400, NOT_TAKEN, message)
        busy = response.status_code == 429
        after = response.headers.get("retry-after", "")
        message = f"expert {self._name!r} answered with status {response.status_code}"
        usable = after.isascii() and after.isdigit() and len(after) < 10
        seconds = min(float(after), REMOTE_RETRY_SECONDS) if usable else 1.0
        return TurnedAway(429 if busy else 503, "overloaded" if busy else "expert_unavailable", message, seconds)


class _Stream:
    """What a stream has said so far in answer to a query."""

    def __init__(self, query: Query) -> None:
        self._chunks = _Chunks(_most_bytes(query))
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._thinking = 0
        self._logprobs: list[TokenLogprob] = []
        self._wanted = query.sampling.top_logprobs
        self.reason = ""
        self._prompt = self._completion = 0
        prompt_bytes = sum(len(message.content.encode()) for message in query.messages)
        self._most_prompt, self._most_completion = prompt_bytes + REMOTE_TEMPLATE_TOKENS, query.sampling.max_tokens

    def feed(self, received: bytes, tell: Callable[[Piece], None]) -> None:
        """Note what was received, and tell what it adds. Raises `ValueError`, `TypeError` and the like where odd."""
        for chunk in self._chunks.feed(received):
            piece = self._take(chunk)
            if piece.text or piece.logprobs or piece.reasoning:
                tell(piece)

    def _take(self, chunk: Mapping[str, Any]) -> Piece:
        usage = chunk.get("usage") or {}
        self._prompt = min(_count(usage.get("prompt_tokens", self._prompt)), self._most_prompt)
        self._completion = min(_count(usage.get("completion_tokens", self._completion)), self._most_completion)
        details = usage.get("completion_tokens_details") or {}
        self._thinking = min(_count(details.get("reasoning_tokens") or self._thinking), self._completion)
        text, reasoning, logprobs = "", "", list[TokenLogprob]()
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            if self._wanted is not None:
                logprobs += [
                    _logprob(entry, self._wanted) for entry in (choice.get("logprobs") or {}).get("content") or ()
                ]
            reason = choice.get("finish_reason") or self.reason
            if reason and reason not in REASONS:
                raise ValueError("an unknown finish_reason")
            self.reason = reason
        text, reasoning = encodable(text), encodable(reasoning)
        self._texts.append(text)
        self._thoughts.append(reasoning)
        self._logprobs += logprobs
        return Piece(text, tuple(logprobs), reasoning=reasoning)

    def generation(self) -> Generation:
        """All of it."""
        tokens = self._prompt, self._completion
        reasoning = "".join(self._thoughts)
        return Generation(
            *("".join(self._texts), self.reason, *tokens, tuple(self._logprobs)),
            reasoning=reasoning,
            reasoning_tokens=self._thinking,
        )


def _logprob(entry: Mapping[str, Any], top: int) -> TokenLogprob:
    """One token as the remote tells of it."""
    likeliest = tuple(
        (encodable(str(alternative["token"])), float(alternative["logprob"]))
        for alternative in entry["top_logprobs"][:top]
    )
    return TokenLogprob(encodable(str(entry["token"])), float(entry["logprob"]), likeliest)


def _count(value: object) -> int:
    """A number of tokens as the remote tells it: what keys are charged by."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a usage that is no number of tokens")
    return value


def _most_bytes(query: Query) -> int:
    """The size that an answer to a query may have as a stream of events, one for each token at worst."""
    return min(REMOTE_LINE_BYTES + query.sampling.max_tokens * REMOTE_BYTES_A_TOKEN, REMOTE_BODY_BYTES)


class _Chunks:
    """The JSON documents in a stream of events that has `most` bytes at most."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._line = bytearray()

    def feed(self, received: bytes) -> Iterator[Mapping[str, Any]]:
        """The documents whose lines end in these bytes. Raises `ValueError` for what is none, or too long."""
        self._taken += len(received)
        if self._taken > self._most:
            raise ValueError("more than an answer can have")
        for number, part in enumerate(received.split(b"\n")):
            if number:
                yield from _document(bytes(self._line))
                self._line.clear()
            self._line += part
            if len(self._line) > REMOTE_LINE_BYTES:
                raise ValueError("a line is too long")


def _document(line: bytes) -> Iterator[Mapping[str, Any]]:
    """The document of a line that has one. Raises `ValueError` for one that is none, or tells of an error."""
    data = line.removeprefix(b"data:").strip()
    if line.startswith(b"data:") and data != b"[DONE]":
        document = json.loads(data)
        if not isinstance(document, dict) or "error" in document:
            raise ValueError("an error in the stream")
        yield document


def _content(message: Message) -> str | list[dict[str, Any]]:
    """What a turn says, in parts where it shows images."""
    if not message.images:
        return message.content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": part.url}}
        for part in message.parts
    ]


def _body(model: str, query: Query) -> dict[str, Any]:
    sampling = query.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": message.role, "content": _content(message)} for message in worded(query.messages, sampling.tools)
        ],
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
    body |= format_fields(sampling)
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.template:
        body["chat_template_kwargs"] = json.loads(sampling.template)
    usual = Sampling(1)
    asked_for = {name: getattr(sampling, name) for name in (*SAME_TO_VLLM, "min_tokens", "stop_token_ids")}
    body |= {name: value for name, value in asked_for.items() if name not in body and value != getattr(usual, name)}
    return body
