"""Waiting, refusing, cancelling and recovering."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from symmoe.deployments.settings import Settings

from symmoe.types import Query, Skills
from tests.deployments.api.conftest import PATIENCE, Running, running
from tests.fakes import NamingTagger


def body(text: str, **options: object) -> dict[str, object]:
    return {"model": "adder", "messages": [{"role": "user", "content": text}], **options}


def held(own: Running) -> Callable[[], None]:
    """Open a stream whose expert has given one word and waits; call what is returned to leave it."""
    first, leave = threading.Event(), threading.Event()

    def read() -> None:
        request = body("hold on", stream=True)
        with httpx.stream("POST", f"{own.url}/v1/chat/completions", json=request, timeout=20) as response:
            for line in response.iter_lines():
                if "adder" in line:
                    first.set()
                    leave.wait(20)
                    return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert first.wait(10)

    def go() -> None:
        leave.set()
        thread.join(10)

    return go


def test_the_first_words_are_there_while_the_expert_still_writes(own: Running) -> None:
    leave = held(own)
    assert not own.engine.released.is_set()
    leave()


def test_a_client_that_leaves_makes_room_for_the_next(own: Running) -> None:
    leave = held(own)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own.post, json=body("next"))
        own.until("symmoe_open_requests", 2.0)
        leave()
        assert waiting.result(20).json()["choices"][0]["message"]["content"] == "adder: next"
    assert own.engine.aborted.is_set()
    own.until("symmoe_open_requests", 0.0)


def test_too_many_waiting_are_told_when_to_come_back_and_the_others_are_answered(own: Running) -> None:
    leave = held(own)
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[httpx.Response]] = [pool.submit(own.post, json=body(f"sums {n}")) for n in range(4)]
        own.until('symmoe_requests_total{endpoint="/v1/chat/completions",status="429"}', 2.0)
        leave()
        responses = [future.result(20) for future in asked]
    refused = [response for response in responses if response.status_code == 429]
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429]
    assert {response.json()["error"]["code"] for response in refused} == {"overloaded"}
    assert all(1 <= int(response.headers["retry-after"]) <= 60 for response in refused)


def test_more_open_requests_than_the_bound_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with running(tmp_path, Settings(most_open=1)) as own:
        leave = held(own)
        refused = own.post(json=body("sums"))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert own.get("/health").status_code == 200
        leave()


def test_nobody_waits_past_the_bound(tmp_path: Path) -> None:
    with running(tmp_path, Settings(longest_wait=0.2), engine={"max_num_seqs": 1}) as own:
        leave = held(own)
        late = own.post(json=body("sums"))
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "waited_too_long"
        assert late.headers["retry-after"]
        leave()


def test_a_request_may_set_a_deadline_of_its_own(own: Running) -> None:
    late = own.post(json=body("hold sums", symmoe={"deadline": 0.2}))
    assert late.status_code == 408
    assert late.json()["error"]["code"] == "deadline_exceeded"
    assert own.engine.aborted.wait(10)
    assert own.post(json=body("sums")).status_code == 200


def test_a_deadline_counts_the_time_that_routing_takes(own: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    routed = threading.Event()
    tag = NamingTagger.tag

    def slow(self: NamingTagger, queries: Sequence[Query]) -> list[Skills]:
        routed.wait(PATIENCE)
        return tag(self, queries)

    monkeypatch.setattr(NamingTagger, "tag", slow)
    try:
        late = own.post(json=body("sums", model="symmoe/fast", symmoe={"deadline": 0.2}))
    finally:
        routed.set()
    assert (late.status_code, late.json()["error"]["code"]) == (408, "deadline_exceeded")
    assert late.headers["x-should-retry"] == "false"  # or clients would ask twice more by themselves


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_is_built_anew_and_the_request_is_tried_again(own: Running, stream: bool) -> None:
    response = own.post(json=body("crash please", stream=stream))
    assert response.status_code == 200
    assert own.engine.crashed
    assert own.replica.check_health() is None  # type: ignore[func-returns-value]
    assert own.post(json=body("sums")).status_code == 200


def test_a_stream_that_breaks_in_the_middle_ends_with_an_error(tmp_path: Path) -> None:
    with running(tmp_path, Settings()) as own:
        request = body("hold on", stream=True)
        with httpx.stream("POST", f"{own.url}/v1/chat/completions", json=request, timeout=20) as response:
            lines = response.iter_lines()
            assert any("adder" in line for line in lines)
            assert own.post(json=body("crash")).status_code == 200
            error, done = [line for line in lines if line][-2:]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "expert_lost"
    assert done == "data: [DONE]"


def test_a_service_that_is_stopping_finishes_what_is_open_and_lets_nobody_else_in(own: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        open_one = pool.submit(own.post, json=body("hold on"))
        own.until("symmoe_open_requests", 1.0)
        drained = asyncio.run_coroutine_threadsafe(own.service.open.drained(10), own.loop)
        while own.get("/ready").status_code == 200:
            pass
        refused = own.post(json=body("sums"))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "stopping"
        own.engine.released.set()
        assert open_one.result(20).status_code == 200
        assert drained.result(20)


def test_metrics_count_answers_experts_and_tokens_but_hold_no_words_of_clients(own: Running) -> None:
    own.post(
        json={**body("sums of a secret"), "model": "symmoe/auto", "user": "secret"}, headers={"x-secret": "secret"}
    )
    text = own.get("/metrics").text
    assert 'symmoe_answers_total{path="single"} 1.0' in text
    assert 'symmoe_tokens_total{expert="adder",kind="prompt"} 4.0' in text
    assert "symmoe_first_token_seconds" in text
    assert "secret" not in text
    own.get("/secret")
    assert "secret" not in own.get("/metrics").text


def test_requests_under_one_name_are_answered_each_its_own(own: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        same = {"x-request-id": "same"}
        asked = [pool.submit(own.post, json=body(f"sums {n}"), headers=same) for n in range(2)]
        texts = [future.result(20).json()["choices"][0]["message"]["content"] for future in asked]
    assert texts == ["adder: sums 0", "adder: sums 1"]


def test_ready_means_that_an_expert_can_answer(own: Running) -> None:
    assert own.get("/ready").json() == {"status": "ready"}
