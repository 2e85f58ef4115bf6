"""One client of a service: sends a request, and judges what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .load import Ask, Kind, Outcome

if TYPE_CHECKING:
    import httpx

_PATH = "/v1/chat/completions"
_PREFIX = "x-symmoe-"
_ENVELOPE = {"message", "type", "param", "code"}


class Answering:
    """What has come back of one request so far."""

    def __init__(self, ask: Ask, clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self.first: float | None = None
        self.tokens = 0
        self.pieces: list[str] = []
        self.done = False

    def whole(self, body: bytes) -> None:
        """A response that is not streamed. `KeyError`, `TypeError` or `ValueError` where it is none."""
        document = json.loads(body)
        self.pieces.append(str(document["choices"][0]["message"]["content"]))
        self.tokens = int(document["usage"]["completion_tokens"])
        self.done = True

    def line(self, line: str) -> None:
        """A line of a stream. `ValueError` where it is no part of an answer."""
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.done = True
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise ValueError(f"error in the stream: {chunk['error'].get('code')}")
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                self.first = self._clock() if self.first is None else self.first
                self.pieces.append(text)
        if chunk.get("usage"):
            self.tokens = int(chunk["usage"]["completion_tokens"])


async def send(
    client: httpx.AsyncClient, ask: Ask, chain: int, place: int, clock: Callable[[], float], since: float | None = None
) -> Outcome:
    """Send one request and follow it to its end; nothing is raised. Its time counts from `since` on, else from now."""
    import httpx

    answering, told, began = Answering(ask, clock), dict[str, str](), clock() if since is None else since
    try:
        async with asyncio.timeout(ask.leave_after), client.stream("POST", _PATH, json=_body(ask)) as response:
            told = _told(response.headers)
            if response.status_code == 200 and ask.stream:
                async for line in response.aiter_lines():
                    answering.line(line)
            else:
                body = await response.aread()
                if response.status_code != 200:
                    kind, why = refusal(response.status_code, response.headers, body)
                    return Outcome(chain, place, kind, began, clock(), why=why, told=told)
                answering.whole(body)
    except TimeoutError:
        return Outcome(chain, place, "left", began, clock(), answering.first, told=told)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        return Outcome(chain, place, "broken", began, clock(), answering.first, why=why, told=told)
    text = "".join(answering.pieces)
    ended = clock()
    if not answering.done:
        return Outcome(chain, place, "broken", began, ended, answering.first, why="the stream has no end", told=told)
    return Outcome(chain, place, "answer", began, ended, answering.first, answering.tokens, text, told=told)


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> tuple[Kind, str]:
    """Whether a response other than 200 is a well-formed 429, and what it says or lacks."""
    try:
        error = json.loads(body)["error"]
        lacking = _ENVELOPE - error.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return "broken", f"{status} without an error envelope"
    if status != 429:
        return "broken", f"{status} {error.get('code')}"
    if lacking or not headers.get("retry-after", "").isdecimal():
        return "broken", "429 without a full envelope and Retry-After"
    return "refused", str(error["code"])


def _body(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": ask.text}],
        "max_tokens": ask.max_tokens,
        "temperature": 0,
    }
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if ask.stream else body


def _told(headers: httpx.Headers) -> dict[str, str]:
    return {name.removeprefix(_PREFIX): value for name, value in headers.items() if name.startswith(_PREFIX)}
