from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.bench.clients import (
    Answering,
    Ask,
    Load,
    Outcome,
    best,
    load_from_json,
    longest_wait,
    milliseconds,
    opened,
    poisson,
    quantile,
    refusal,
    summary,
)
from symmoe.bench.machine import growth, resident, steady_name, taking, tree
from symmoe.errors import EngineError

SECONDS = st.lists(st.floats(0, 1e4), min_size=1, max_size=50)


@given(SECONDS, st.floats(0, 1))
def test_a_quantile_is_the_one_that_numpy_gives(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


def test_nothing_has_no_quantiles() -> None:
    assert milliseconds([]) is None


@given(st.floats(0.1, 100), st.integers(1, 200), st.integers(0, 9))
def test_arrivals_come_one_after_the_other_and_are_the_same_each_time(rate: float, count: int, seed: int) -> None:
    times = poisson(rate, count, seed)
    assert times == poisson(rate, count, seed)
    assert len(times) == count
    assert all(early <= late for early, late in itertools.pairwise((0.0, *times)))


def test_arrivals_have_the_rate_that_is_asked_for_and_the_spread_of_a_poisson_process() -> None:
    between = np.diff((0.0, *poisson(8.0, 20_000, 1)))
    assert between.mean() == pytest.approx(1 / 8, rel=0.03)
    assert between.std() == pytest.approx(1 / 8, rel=0.03)


def test_a_load_travels_as_json() -> None:
    loads = (opened([Ask("a", "b", 3, True, 0.5)], 2.0, 1), Load(((Ask("a", "b", 1), Ask("c", "d", 2)),), 4, None, 3.0))
    for load in loads:
        assert load_from_json(json.loads(json.dumps(asdict(load)))) == load


def outcomes() -> list[Outcome]:
    told = {"wait-ms": "1500.0"}
    return [
        Outcome(0, 0, "answer", 0.0, 2.0, first=0.5, tokens=10, told=told),
        Outcome(1, 0, "answer", 1.0, 4.0, tokens=30),
        Outcome(2, 0, "refused", 0.0, 0.1, why="overloaded"),
        Outcome(3, 0, "broken", 0.0, 0.1, why="503 expert_lost"),
    ]


def test_a_summary_counts_answers_alone() -> None:
    report = summary(outcomes())
    assert report["kinds"] == {"answer": 2, "refused": 1, "broken": 1}
    assert (report["requests_per_second"], report["tokens_per_second"]) == (0.5, 10.0)
    assert report["latency_ms"] == {"p50": 2500.0, "p99": 2990.0}
    assert report["first_token_ms"]["p50"] == 500.0
    assert report["broken"] == {"503 expert_lost": 1}
    assert longest_wait(outcomes()) == 1.5


def test_the_fastest_round_counts() -> None:
    assert best([{"requests_per_second": 1.0}, {"requests_per_second": 3.0}])["requests_per_second"] == 3.0


GOOD = {"error": {"message": "full", "type": "rate_limit_error", "param": None, "code": "overloaded"}}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (429, {"retry-after": "3"}, json.dumps(GOOD), "refused"),
        (429, {}, json.dumps(GOOD), "broken"),
        (429, {"retry-after": "soon"}, json.dumps(GOOD), "broken"),
        (429, {"retry-after": "3"}, '{"error": {"code": "overloaded"}}', "broken"),
        (429, {"retry-after": "3"}, "too much", "broken"),
        (503, {"retry-after": "3"}, json.dumps(GOOD), "broken"),
    ],
)
def test_only_a_full_429_is_a_refusal(status: int, headers: dict[str, str], body: str, kind: str) -> None:
    assert refusal(status, httpx.Headers(headers), body.encode())[0] == kind


def test_a_stream_is_timed_from_its_first_text_and_an_error_in_it_is_no_answer() -> None:
    clock = itertools.count()
    answering = Answering(Ask("a", "b", 1, True), lambda: float(next(clock)))
    for delta in ({"role": "assistant", "content": ""}, {"content": "one"}, {"content": " two"}):
        answering.line("data: " + json.dumps({"choices": [{"delta": delta}]}))
    answering.line("data: " + json.dumps({"choices": [], "usage": {"completion_tokens": 7}}))
    assert not answering.done
    answering.line("data: [DONE]")
    assert (answering.done, answering.first, answering.tokens) == (True, 0.0, 7)
    assert "".join(answering.pieces) == "one two"
    with pytest.raises(ValueError, match="overloaded"):
        answering.line("data: " + json.dumps(GOOD))


def samples(sizes: Sequence[int]) -> list[tuple[float, dict[str, int]]]:
    return [(float(second), {"engine 1": size, f"passing {second // 20}": 5}) for second, size in enumerate(sizes)]


def test_growth_is_what_is_left_after_the_warm_up_of_processes_that_stay() -> None:
    grown = growth(samples([1 << 20] * 20 + [100 << 20] * 40 + [102 << 20] * 40), 20.0)
    assert grown["growth_percent"] == 2.0
    assert grown["processes"]["engine 1"]["grown_mib"] == 2.0
    assert grown["came_and_went"] == 4


def test_growth_of_nothing_is_an_error() -> None:
    with pytest.raises(EngineError, match="no memory was sampled"):
        growth(samples([1, 2]), 20.0)


def test_an_actor_of_ray_is_one_process_whatever_it_is_at() -> None:
    titles = ["ray::ServeReplica:symmoe:experts", "ray::ServeReplica:symmoe:experts.handle_request_with_rejection"]
    assert {steady_name(title) for title in titles} == {"ray::ServeReplica:symmoe:experts"}
    assert steady_name("/usr/bin/python3.11") == "python3.11"


def test_this_process_takes_memory_and_cores() -> None:
    import os

    assert sum(resident(os.getpid()).values()) > 1 << 20
    ends = sum(os.times()[:2]) + 0.1
    with taking({"here": [os.getpid()]}) as taken:
        while sum(os.times()[:2]) < ends:
            pass
    assert taken.own["here"] > 0
    assert taken.figures["cores_taken"] == {"here": taken.own["here"], "clients": 0.0}
    assert tree(2**30) == []
