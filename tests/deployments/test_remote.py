"""Remote experts against a server that says what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from symmoe.deployments.events import Asked, Begun, End, Event, Finished, Piece, TurnedAway
from symmoe.deployments.lifecycle.lifecycle import FAILING
from symmoe.deployments.remote import PoolExperts, RemoteExpert

from symmoe.config import ExpertConfig, Pool, RemoteConfig
from symmoe.types import Generation, Message, Query, Sampling

REMOTE = RemoteConfig(url="https://far.example/v1", model="there", key_env="FAR_KEY")
EXPERT = ExpertConfig(name="far", model="org/far", remote=REMOTE)
Answering = Callable[[httpx.Request], httpx.Response]


def said(*chunks: object, end: str = "data: [DONE]\n\n") -> httpx.Response:
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, text=lines + end, headers={"content-type": "text/event-stream"})


def delta(text: str, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def ask(answering: Answering, stream: bool = True, resend: bool = False) -> list[Event]:
    expert = EXPERT.model_copy(update={"remote": REMOTE.model_copy(update={"resend": resend})})
    sampling = Sampling(9, 0.5, 0.8, seed=3, stop=("x",), schema='{"type": "object"}')
    asked = Asked("1", "far", Query("0", (Message("user", "hi"),), sampling), "me", 1.0, stream)

    async def asking() -> list[Event]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answering)) as client:
            events: list[Event] = []
            end = await RemoteExpert(expert, client).ask(asked, events.append)
            return [*events, end]

    return asyncio.run(asking())


def test_it_is_asked_under_its_own_name_and_key_with_the_requests_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sesame")
    requests: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return said(delta("yes", "stop"))

    ask(answering)
    (request,) = requests
    body = json.loads(request.content)
    assert str(request.url) == "https://far.example/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sesame"
    assert body["model"] == "there"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["seed"], body["stop"]) == (
        9, 0.5, 0.8, 3, ["x"],
    )  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
def test_its_words_are_passed_on_and_its_tokens_counted(stream: bool) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    begun, *pieces, end = ask(lambda request: said(delta("one "), delta("two"), delta("", "length"), usage), stream)
    assert isinstance(begun, Begun)
    assert pieces == ([Piece("one "), Piece("two")] if stream else [])
    assert end == Finished(Generation("one two", "length", 4, 2))


@pytest.mark.parametrize("status", [401, 404, 500, 302])
def test_what_it_refuses_is_unavailable_and_nothing_of_what_it_says_is_told(status: int) -> None:
    headers = {"location": "http://169.254.169.254/"}
    (end,) = ask(lambda request: httpx.Response(status, text="your key sk-123 is wrong", headers=headers))
    assert isinstance(end, TurnedAway)
    assert (end.status, end.code) == (503, "expert_unavailable")
    assert str(status) in end.message
    assert "sk-123" not in end.message


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_it_does_not_take_is_no_failure_of_its_own(status: int) -> None:
    (end,) = ask(lambda request: httpx.Response(status, text="your key sk-123 has a window of 8 tokens"))
    assert isinstance(end, TurnedAway)
    assert (end.status, end.again, end.retry_after) == (400, False, None)
    assert end.code not in FAILING
    assert str(status) in end.message
    assert "sk-123" not in end.message


def test_its_being_busy_is_passed_on_with_when_to_come_back() -> None:
    (end,) = ask(lambda request: httpx.Response(429, headers={"retry-after": "7"}))
    assert isinstance(end, TurnedAway)
    assert (end.status, end.retry_after) == (429, 7.0)


@pytest.mark.parametrize(
    "response",
    [
        said(delta("half")),
        said(delta("half"), end=""),
        said({"error": {"message": "no"}}),
        said([1]),
        said({"choices": [3]}),
        said({"usage": {"prompt_tokens": None}}),
        httpx.Response(200, text="data: {\n\n"),
        httpx.Response(200, text="data: " + "x" * (2 << 20)),
        httpx.Response(200, text="<html>"),
    ],
)
def test_garbage_or_an_answer_that_breaks_off_ends_in_unavailable(response: httpx.Response) -> None:
    end = ask(lambda request: response)[-1]
    assert isinstance(end, TurnedAway)
    assert end.status == 503


@pytest.mark.parametrize(
    ("error", "resend", "again"),
    [
        (httpx.ConnectError, False, True),
        (httpx.ConnectTimeout, False, True),
        (httpx.ReadTimeout, False, False),
        (httpx.RemoteProtocolError, False, False),
        (httpx.ReadTimeout, True, True),
        (httpx.RemoteProtocolError, True, True),
    ],
)
def test_what_may_have_been_generated_is_sent_again_only_where_the_pool_file_allows_it(
    error: type[httpx.TransportError], resend: bool, again: bool
) -> None:
    def answering(request: httpx.Request) -> httpx.Response:
        raise error("it did not answer")

    (end,) = ask(answering, resend=resend)
    assert isinstance(end, TurnedAway)
    assert (end.status, end.again) == (503, again)


def test_who_waits_for_a_slow_remote_holds_up_no_other() -> None:
    """More at once than the hundred connections that an HTTP client allows by itself."""

    def asked(name: str, number: int) -> Asked:
        return Asked(str(number), name, Query("0", (Message("user", "hi"),), Sampling(9)), "me", 1.0)

    async def asking() -> End:
        opened = asyncio.Semaphore(0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            quick = b"/quick/" in await reader.readuntil(b"\r\n\r\n")
            opened.release()
            if quick:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + said(delta("yes", "stop")).content)
            else:
                await reader.read()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            remotes = {name: RemoteConfig(url=f"{url}/{name}/v1") for name in ("slow", "quick")}
            far = tuple(ExpertConfig(name=name, model="org/far", remote=remote) for name, remote in remotes.items())
            experts = PoolExperts(Pool(name="far", experts=far), None)
            waiting = [asyncio.create_task(experts.ask(asked("slow", n), lambda event: None)) for n in range(120)]
            for _ in waiting:
                await opened.acquire()
            end = await experts.ask(asked("quick", 0), lambda event: None)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return end

    assert isinstance(asyncio.run(asyncio.wait_for(asking(), 60)), Finished)


@pytest.mark.parametrize("url", ["ftp://x/v1", "far.example/v1", "https://x/v1?key=1", "file:///etc/passwd"])
def test_only_plain_http_addresses_can_be_named(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        RemoteConfig(url=url)
