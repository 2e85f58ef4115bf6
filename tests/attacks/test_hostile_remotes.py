"""A remote expert that sends too much, something else than it was asked for, or odd numbers."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread

import httpx
import pytest
from symmoe.deployments.events import Asked, Event, Finished, TurnedAway
from symmoe.deployments.remote import RemoteExpert

from symmoe.config import ExpertConfig, RemoteConfig
from symmoe.limits import REMOTE_BODY_BYTES, REMOTE_BYTES_A_TOKEN, REMOTE_LINE_BYTES, REMOTE_RETRY_SECONDS
from symmoe.types import Message, Query, Sampling

MIB = 1 << 20
TOKENS = 9
MOST = REMOTE_LINE_BYTES + TOKENS * REMOTE_BYTES_A_TOKEN


def ask(client: httpx.AsyncClient, url: str = "http://far.example/v1", tokens: int = TOKENS) -> list[Event]:
    expert = ExpertConfig(name="far", model="org/far", remote=RemoteConfig(url=url))
    query = Query("0", (Message("user", "hi"),), Sampling(tokens, 0.0, 1.0))

    async def asking() -> list[Event]:
        async with client:
            asked = Asked("1", "far", query, "me", 1.0, False)
            events: list[Event] = []
            end = await RemoteExpert(expert, client).ask(asked, events.append)
            return [*events, end]

    return asyncio.run(asking())


def answering(response: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(response))


def said(*chunks: object) -> httpx.AsyncClient:
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return answering(lambda request: httpx.Response(200, text=text))


def delta(text: object, reason: object = "stop") -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def unavailable(events: list[Event]) -> bool:
    end = events[-1]
    return isinstance(end, TurnedAway) and (end.status, end.code) == (503, "expert_unavailable")


class Endless(httpx.AsyncByteStream):
    """Sends one piece until nobody takes it, 64 MiB at most beyond what is ever kept; counts what was taken."""

    def __init__(self, piece: bytes) -> None:
        self.piece, self.taken = piece, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < REMOTE_BODY_BYTES + 64 * MIB:
            self.taken += len(self.piece)
            yield self.piece


@pytest.mark.parametrize(
    "piece",
    [b"x" * 65536, b"data: {}\n\n" * 4096, b": nothing\n" * 4096, b"\n" * 65536],
    ids=["one line", "events", "comments", "empty lines"],
)
def test_an_endless_answer_is_taken_only_as_far_as_an_answer_can_go(piece: bytes) -> None:
    stream = Endless(piece)
    assert unavailable(ask(answering(lambda request: httpx.Response(200, stream=stream))))
    assert stream.taken <= MOST + len(piece)


def test_however_much_was_asked_for_there_is_a_bound_of_the_whole() -> None:
    stream = Endless(b'data: {"": "%s"}\n\n' % (b"x" * (REMOTE_LINE_BYTES // 2)))  # few events, soon read
    events = ask(answering(lambda request: httpx.Response(200, stream=stream)), tokens=10**9)
    assert unavailable(events)
    assert stream.taken <= REMOTE_BODY_BYTES + len(stream.piece)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"])
def test_what_is_packed_is_never_unpacked(encoding: str) -> None:
    packing = zlib.compressobj(wbits=31)
    packed = b"".join(packing.compress(b"x" * MIB) for _ in range(16)) + packing.flush()
    asked: list[httpx.Request] = []

    def bomb(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=Once(packed), headers={"content-encoding": encoding})

    assert unavailable(ask(answering(bomb)))
    assert asked[0].headers["accept-encoding"] == "identity"


class Once(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "many"},
        {"prompt_tokens": -1},
        {"completion_tokens": 1.5},
        {"completion_tokens": float("inf")},
        {"completion_tokens": float("nan")},
        {"completion_tokens": True},
        {"completion_tokens": [1]},
        [1],
        "much",
        7,
    ],
)
def test_odd_usage_is_the_remotes_fault_and_no_failure_here(usage: object) -> None:
    assert unavailable(ask(said(delta("yes"), {"choices": [], "usage": usage})))


def test_a_remote_cannot_use_up_the_tokens_of_a_key() -> None:
    usage = {"prompt_tokens": 10**15, "completion_tokens": 10**15}
    *_, end = ask(said(delta("yes"), {"choices": [], "usage": usage}))
    assert isinstance(end, Finished)
    assert end.generation.completion_tokens == TOKENS
    assert end.generation.prompt_tokens < 20_000


@pytest.mark.parametrize("chunk", [delta(5), delta(["a"]), delta({"a": 1}), delta("a", ["stop"]), delta("a", "weary")])
def test_odd_deltas_and_reasons_are_the_remotes_fault(chunk: object) -> None:
    assert unavailable(ask(said(chunk)))


def test_deep_json_is_the_remotes_fault() -> None:
    text = "data: " + "[" * 100_000 + "\n\n"
    assert unavailable(ask(answering(lambda request: httpx.Response(200, text=text))))


def test_halves_of_signs_can_be_sent_on() -> None:
    *_, end = ask(said(delta("a\ud83d"), delta("\ud83d\ude00")))
    assert isinstance(end, Finished)
    assert end.generation.text.encode() == "a\ufffd\U0001f600".encode()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("9" * 400, 1.0),
        ("999999999", REMOTE_RETRY_SECONDS),
        ("-5", 1.0),
        ("nan", 1.0),
        ("inf", 1.0),
        ("1e9", 1.0),
        ("٣", 1.0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 1.0),
        ("7", 7.0),
    ],
)
def test_an_odd_retry_after_is_not_passed_on(told: str, seconds: float) -> None:
    headers = {"retry-after": told.encode()}
    (end,) = ask(answering(lambda request: httpx.Response(429, headers=headers)))
    assert isinstance(end, TurnedAway)
    assert (end.status, end.retry_after) == (429, seconds)


@contextmanager
def flooding(head: bytes, piece: bytes) -> Iterator[tuple[str, Callable[[], int]]]:
    """A real server that sends and sends, at most 512 MiB; its URL, and how much it got rid of."""
    started, sent, port = Flag(), [0], [0]
    loop = asyncio.new_event_loop()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            while sent[0] < 512 * MIB:
                writer.write(piece)
                await writer.drain()
                sent[0] += len(piece)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
            port[0] = server.sockets[0].getsockname()[1]
            started.set()
            await server.serve_forever()

    task = loop.create_task(serve())
    thread = Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port[0]}/v1", lambda: sent[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


@pytest.mark.parametrize("encoding", [b"", b"content-encoding: gzip\r\n"], ids=["one line", "gzip"])
def test_a_real_flood_is_cut_off(encoding: bytes) -> None:
    packing = zlib.compressobj(9, wbits=31)
    piece = packing.compress(b"x" * (64 * MIB)) + packing.flush() if encoding else b"x" * 65536
    with flooding(encoding, piece) as (url, sent):
        assert unavailable(ask(httpx.AsyncClient(trust_env=False), url))
        assert sent() < 32 * MIB  # what it could write into sockets meanwhile
