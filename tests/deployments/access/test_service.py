"""Keys, limits and the cache of a running service, through the official client."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from symmoe.deployments.access.keys import new_key, revoke
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import PATIENCE, Running, running, until

from .conftest import ask, client, contents, keyed, kill_the_store, make_key, stored

pytestmark = pytest.mark.usefixtures("state")
CACHING = Settings(cache_seconds=60.0)


def text(response: Any) -> str:
    return str(response.parse().choices[0].message.content)


def streamed(response: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in response.parse() if chunk.choices)


def until_refused(served: Running, key: str) -> None:
    """Until the service knows that a key was revoked."""
    with pytest.raises(openai.AuthenticationError):
        until(lambda: not client(served, key).models.list())


def test_every_path_but_those_that_watch_needs_a_key_that_is_good(tmp_path: Path) -> None:
    expired, _ = make_key(expires=time.time() - 1)
    good, _ = make_key()
    with keyed(tmp_path, Settings()) as served:
        for wrong in ("none", new_key(), expired):
            with pytest.raises(openai.AuthenticationError) as raised:
                ask(served, wrong)
            assert raised.value.code == "invalid_api_key"
            assert raised.value.response.headers["www-authenticate"] == "Bearer"
            assert wrong not in raised.value.response.text
        body = {"model": "symmoe/auto", "messages": [{"role": "user", "content": "sums"}]}
        for path in ("/v1/chat/completions", "/v1/route"):
            assert served.post(path, json=body).status_code == 401
        assert served.get("/v1/models").status_code == 401
        assert [served.get(path).status_code for path in ("/health", "/ready", "/metrics")] == [200, 200, 200]
        assert text(ask(served, good)) == "adder: sums"
        assert served.metric('symmoe_refused_total{why="key"}') == 6


def test_a_revoked_key_soon_stops_working_on_a_running_service_and_no_other_does(tmp_path: Path) -> None:
    key, record = make_key()
    other, _ = make_key()
    with keyed(tmp_path, Settings()) as served:
        ask(served, key)
        stored(lambda storage: revoke(storage, record.id, time.time()))
        until_refused(served, key)
        assert text(ask(served, other)) == "adder: sums"


def test_an_open_stream_ends_with_its_key_and_those_of_others_go_on(tmp_path: Path) -> None:
    (key, record), (other, _) = make_key(), make_key()
    with keyed(tmp_path, Settings()) as served:
        streams = [ask(served, each, "hold the line", stream=True).parse() for each in (key, key, other)]
        firsts = [next(iter(stream)) for stream in streams]
        assert all(chunk.choices for chunk in firsts)
        stored(lambda storage: revoke(storage, record.id, time.time()))
        for stream in streams[:2]:
            with pytest.raises(openai.APIError) as raised:
                list(stream)
            assert (raised.value.code, raised.value.type) == ("invalid_api_key", "authentication_error")
            assert key not in str(raised.value.body)
        assert served.engine.aborted.wait(10)
        served.engine.released.set()
        said = "".join(chunk.choices[0].delta.content or "" for chunk in streams[2])
        assert said == "adder: hold the line"
        served.until("symmoe_open_requests", 0)


def test_a_stream_whose_key_is_revoked_before_its_first_word_is_a_401(tmp_path: Path) -> None:
    key, record = make_key()
    other, _ = make_key()
    with keyed(tmp_path, Settings()) as served, ThreadPoolExecutor(2) as threads:
        blocking = client(served, other).chat.completions.create(
            model="adder", messages=[{"role": "user", "content": "hold"}], stream=True
        )
        next(iter(blocking))
        waiting = threads.submit(ask, served, key, "later", model="speaker", stream=True)
        served.until("symmoe_open_requests", 2)
        stored(lambda storage: revoke(storage, record.id, time.time()))
        with pytest.raises(openai.AuthenticationError):
            waiting.result(PATIENCE)
        blocking.close()


def test_a_whole_answer_that_is_under_way_when_its_key_is_revoked_is_finished(tmp_path: Path) -> None:
    key, record = make_key()
    with keyed(tmp_path, Settings()) as served, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask, served, key, "hold on")
        served.until("symmoe_open_requests", 1)
        stored(lambda storage: revoke(storage, record.id, time.time()))
        until_refused(served, key)
        served.engine.released.set()
        assert text(answer.result(PATIENCE)) == "adder: hold on"


def test_requests_over_the_limit_are_told_when_to_come_again_and_two_ingresses_share_it(tmp_path: Path) -> None:
    key, _ = make_key(requests_per_minute=4)
    other, _ = make_key(requests_per_minute=4)
    with keyed(tmp_path / "a", Settings()) as one, keyed(tmp_path / "b", Settings()) as two:
        left = [ask(served, key).headers["x-ratelimit-remaining-requests"] for served in (one, two, one, two)]
        assert left == ["3", "2", "1", "0"]
        for served in (one, two):
            with pytest.raises(openai.RateLimitError) as raised:
                ask(served, key)
            told = raised.value.response.headers
            assert raised.value.code == "rate_limit_exceeded"
            assert 1 <= int(told["retry-after"]) <= 60
            assert told["x-ratelimit-limit-requests"] == "4"
            assert 0 < float(told["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
            assert served.metric('symmoe_refused_total{why="requests"}') == 1
        assert client(one, key).models.list()
        assert text(ask(two, other)) == "adder: sums"


def test_many_at_once_are_let_in_exactly_as_often_as_the_limit_says(tmp_path: Path) -> None:
    key, _ = make_key(requests_per_minute=7)
    with keyed(tmp_path / "a", Settings()) as one, keyed(tmp_path / "b", Settings()) as two:

        def tried(number: int) -> int:
            served = (one, two)[number % 2]
            body = {"model": "adder", "messages": [{"role": "user", "content": f"sums {number}"}]}
            return served.post(json=body, headers={"authorization": f"Bearer {key}"}).status_code

        with ThreadPoolExecutor(8) as threads:
            codes = list(threads.map(tried, range(20)))
    assert sorted(codes) == [200] * 7 + [429] * 13


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_charged_by_what_an_answer_took(tmp_path: Path, stream: bool) -> None:
    key, _ = make_key(tokens_per_minute=12)
    with keyed(tmp_path, Settings()) as served:
        first = ask(served, key, "sums of 1 2 3", stream=stream)
        assert first.headers["x-ratelimit-remaining-tokens"] == "12"
        _ = streamed(first) if stream else text(first)
        second = ask(served, key, "sums of 1 2 3")  # the first took 11: one is left, and that lets another in
        assert second.headers["x-ratelimit-remaining-tokens"] == "1"
        with pytest.raises(openai.RateLimitError) as raised:
            ask(served, key)
        assert raised.value.response.headers["x-ratelimit-remaining-tokens"] == "0"
        assert served.metric('symmoe_refused_total{why="tokens"}') == 1


def test_who_leaves_a_stream_is_charged_what_was_generated(tmp_path: Path) -> None:
    key, record = make_key(tokens_per_minute=100)
    with keyed(tmp_path, Settings()) as served:
        body = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}], "stream": True}
        told = {"authorization": f"Bearer {key}"}
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, headers=told, timeout=20) as response:
            assert any("adder" in line for line in response.iter_lines())
        served.until("symmoe_open_requests", 0)
        name = f"symmoe:window:{{{record.id}}}:tokens".encode()
        until(lambda: name in contents())
        assert sum(map(int, contents()[name].values())) >= 1


def test_an_outage_loses_no_request_of_a_key_in_use_and_asks_the_others_to_wait(
    tmp_path: Path, foreign: Callable[[], object]
) -> None:
    key, _ = make_key(requests_per_minute=100, tokens_per_minute=10_000)
    unused, _ = make_key()
    with keyed(tmp_path, CACHING) as served:
        ask(served, key)
        kill_the_store()
        assert [text(ask(served, key, f"sums {number}")) for number in range(20)] == [
            f"adder: sums {number}" for number in range(20)
        ]
        with pytest.raises(openai.InternalServerError) as raised:
            ask(served, unused)
        assert raised.value.status_code == 503
        assert raised.value.code == "store_unavailable"
        assert raised.value.response.headers["retry-after"] == "1"
        assert served.metric("symmoe_limits_unchecked_total") >= 20
        assert served.metric('symmoe_refused_total{why="store"}') == 1
        foreign()
        until(lambda: text(ask(served, unused)) == "adder: sums", openai.InternalServerError)
        limit = "x-ratelimit-limit-requests"
        until(lambda: ask(served, key).headers.get(limit) == "100", openai.InternalServerError)


def test_an_equal_request_is_answered_from_the_cache_whole_or_streamed_at_no_expert_call(tmp_path: Path) -> None:
    key, _ = make_key(tokens_per_minute=1000)
    with keyed(tmp_path, CACHING) as served:
        first = ask(served, key, "sums of 1 2 3")
        again = ask(served, key, "sums of 1 2 3")
        stream = ask(served, key, "sums of 1 2 3", stream=True, stream_options={"include_usage": True})
        chunks = list(stream.parse())
        assert len(served.engine.asked) == 1
        assert [r.headers["x-symmoe-cache"] for r in (first, again, stream)] == ["miss", "hit", "hit"]
        assert [r.headers["x-symmoe-path"] for r in (first, again, stream)] == ["named"] * 3
        assert "x-symmoe-total-ms" not in again.headers
        assert text(first) == text(again) == "adder: sums of 1 2 3"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text(first)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage == first.parse().usage == again.parse().usage
        assert first.parse().id != again.parse().id
        assert again.headers["x-ratelimit-remaining-tokens"] == stream.headers["x-ratelimit-remaining-tokens"] == "989"
        assert served.metric('symmoe_cache_total{result="hit"}') == 2


def test_a_streamed_answer_is_given_again_whole_with_every_choice(tmp_path: Path) -> None:
    with running(tmp_path, CACHING) as served:
        options: dict[str, Any] = {"n": 2, "temperature": 0.7, "seed": 5}
        _ = streamed(ask(served, "none", stream=True, **options))
        served.until('symmoe_cache_total{result="miss"}', 1)
        until(contents)
        again = ask(served, "none", **options)
        assert again.headers["x-symmoe-cache"] == "hit"
        assert [choice.message.content for choice in again.parse().choices] == ["adder: sums"] * 2
        assert len(served.engine.asked) == 2


def test_another_keys_answer_is_never_given_nor_one_that_was_drawn_nor_where_the_client_says_so(tmp_path: Path) -> None:
    mine, _ = make_key()
    yours, _ = make_key()
    with keyed(tmp_path, CACHING) as served:
        for key in (mine, yours):
            assert ask(served, key).headers["x-symmoe-cache"] == "miss"
        assert len(served.engine.asked) == 2
        for options in ({"temperature": 1.0}, {"extra_headers": {"cache-control": "no-store"}}):
            for _ in range(2):
                assert "x-symmoe-cache" not in ask(served, mine, **options).headers
        assert len(served.engine.asked) == 6
        assert ask(served, mine).headers["x-symmoe-cache"] == "hit"


def test_an_answer_in_which_an_expert_had_no_say_is_not_kept(tmp_path: Path) -> None:
    with running(tmp_path, CACHING) as served:
        options: dict[str, Any] = {"model": "symmoe/best", "extra_body": {"symmoe": {"k": 4, "explain": True}}}
        first, second = ask(served, "none", **options), ask(served, "none", **options)
        assert "broken" in first.parse().symmoe["asked"]
        assert second.headers["x-symmoe-cache"] == "miss"
        whole = {"model": "symmoe/best", "extra_body": {"symmoe": {"k": 1, "explain": True}}}
        first, second = ask(served, "none", **whole), ask(served, "none", **whole)
        assert second.headers["x-symmoe-cache"] == "hit"
        assert second.parse().symmoe == first.parse().symmoe


def test_an_answer_for_which_the_dial_asked_fewer_than_were_recruited_is_kept(tmp_path: Path) -> None:
    with running(tmp_path, CACHING) as served:
        options = {"model": "symmoe/best", "extra_body": {"symmoe": {"k": 3, "quality": 0.0, "explain": True}}}
        first, second = ask(served, "none", **options), ask(served, "none", **options)
        assert len(first.parse().symmoe["recruited"]) == 3
        assert first.headers["x-symmoe-experts"].split(",") == first.parse().symmoe["asked"]
        assert len(first.parse().symmoe["asked"]) == 1
        assert second.headers["x-symmoe-cache"] == "hit"


def test_without_the_setting_nothing_is_kept_and_without_keys_no_store_is_started(tmp_path: Path, state: Path) -> None:
    with running(tmp_path, Settings()) as served:
        for _ in range(2):
            assert "x-symmoe-cache" not in ask(served, "none").headers
        assert len(served.engine.asked) == 2
    assert not state.exists()


def test_no_key_is_in_the_store_its_files_the_metrics_or_the_logs(
    tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    key, record = make_key(requests_per_minute=3)
    wrong = new_key()
    with keyed(tmp_path, CACHING) as served:
        for _ in range(3):
            ask(served, key)
        with pytest.raises(openai.RateLimitError) as limited:
            ask(served, key)
        with pytest.raises(openai.AuthenticationError) as unknown:
            ask(served, wrong)
        told = [limited.value.response, unknown.value.response, served.get("/metrics")]
        said = "".join(f"{response.headers}{response.text}" for response in told)
    kept = repr(contents()) + "".join(
        path.read_bytes().decode("latin-1") for path in state.rglob("*") if path.is_file()
    )
    server_side = [log for log in caplog.records if not log.name.startswith(("openai", "httpx", "httpcore"))]
    logged = "".join(log.getMessage() for log in server_side) + "".join(capfd.readouterr())
    assert record.id in kept
    for secret in (key, wrong, key.removeprefix("sk-symmoe-")):
        assert secret not in kept + said + logged
    assert record.id not in served_metrics(said)


def served_metrics(said: str) -> str:
    """Lines of metrics, where not even ids may stand: they would be without bound."""
    return "\n".join(line for line in said.splitlines() if line.startswith("symmoe_"))
