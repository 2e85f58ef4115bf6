from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.settings import Settings

from symmoe.bench.clients import (
    Answering,
    Ask,
    Load,
    Outcome,
    best,
    closed,
    crowd,
    load_from_json,
    longest_wait,
    milliseconds,
    opened,
    poisson,
    quantile,
    refusal,
    run,
    summary,
)
from symmoe.bench.grouping import GroupingLoad, measure_grouping
from symmoe.bench.machine import cores_in_use, growth, peak_mib, resident, steady_name, tree
from symmoe.bench.service import (
    NamedLoad,
    RoutingLoad,
    SoakLoad,
    Wanted,
    asks,
    measure,
    measure_named,
    measure_routing,
    measure_soak,
)
from symmoe.bench.services import Side, symmoe_serve
from symmoe.bench.tied import tied
from symmoe.config import Pool, read_pool
from symmoe.errors import EngineError, RequestError
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, assembled, running
from tests.deployments.conftest import gone

EXPERTS = ("adder", "speaker", "sorter")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return read_pool(str(echo_pool(tmp_path_factory.mktemp("pool"), EXPERTS)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("served"), Settings(most_open=40)) as service:
        yield service


@pytest.fixture
def side(service: Running) -> Side:
    import os

    return Side("symmoe", service.url, os.getpid())


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowds in this process: a process for each takes a second to start."""
    for module in ("service", "grouping"):
        monkeypatch.setattr(f"symmoe.bench.{module}.crowd", lambda url, load: asyncio.run(run(url, load)))


def test_a_crowd_in_its_own_process_is_answered_whole_and_streamed(side: Side) -> None:
    outcomes = crowd(side.url, closed([Ask("adder", "sums 1", 8), Ask("adder", "sums 2", 8, stream=True)], 2))
    assert {outcome.chain: outcome.text for outcome in outcomes} == {0: "adder: sums 1", 1: "adder: sums 2"}
    whole, streamed = sorted(outcomes, key=lambda outcome: outcome.chain)
    assert whole.first is None
    assert streamed.first is not None
    assert streamed.began < streamed.first <= streamed.ended
    assert whole.tokens == streamed.tokens == 3
    assert whole.headers["path"] == "named"


def test_a_crowd_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match="the clients failed"):
        crowd("http://a:b", Load(()))


def test_an_open_load_is_timed_from_when_it_should_have_come(side: Side) -> None:
    load = opened([Ask("adder", f"sums {n}", 8) for n in range(5)], 100.0, 0)
    outcomes = asyncio.run(run(side.url, load))
    assert sorted(outcome.began for outcome in outcomes) == list(load.arrivals or ())


def test_chains_are_followed_one_after_the_other_and_again_while_there_is_time(side: Side) -> None:
    load = Load(((Ask("adder", "sums", 8), Ask("sorter", "sums", 8)),), clients=1, seconds=0.3)
    outcomes = asyncio.run(run(side.url, load))
    assert len(outcomes) > 2
    assert [outcome.place for outcome in outcomes[:4]] == [0, 1, 0, 1]
    assert all(early.ended <= late.began for early, late in itertools.pairwise(outcomes))


def test_what_is_no_answer_is_broken_and_who_leaves_has_left(side: Side) -> None:
    asked = [Ask("nobody", "sums", 8), Ask("adder", "hold on", 8, stream=True, leave_after=0.2)]
    outcomes = asyncio.run(run(side.url, closed(asked, 2)))
    assert {outcome.chain: (outcome.kind, outcome.why) for outcome in outcomes} == {
        0: ("broken", "404 model_not_found"),
        1: ("left", ""),
    }


def test_a_service_that_is_full_refuses_well(side: Side) -> None:
    outcomes = asyncio.run(run(side.url, closed([Ask("adder", f"sums {n}", 8) for n in range(120)], 120)))
    assert {outcome.kind for outcome in outcomes} == {"answer", "refused"}


@pytest.mark.usefixtures("nearby")
def test_a_named_expert_is_compared_with_another_server(pool: Pool, side: Side) -> None:
    other = Side("other", side.url)
    report = measure_named(pool, (side, other), NamedLoad("adder", clients=4, requests=8, rounds=2, rate=100.0))
    assert set(report["modes"]) == {"closed", "closed_streamed", "open_streamed"}
    for row in report["modes"].values():
        assert row["equal_answers"] == "16 of 16"
        assert row["ratio"] > 0
        assert len(row["ratio_by_round"]) == 2
    assert report["modes"]["closed"]["other"]["first_token_ms"] is None
    assert report["modes"]["open_streamed"]["symmoe"]["first_token_ms"]["p50"] > 0


@pytest.mark.usefixtures("nearby")
def test_a_comparison_with_a_server_that_does_not_answer_is_an_error(pool: Pool, side: Side) -> None:
    with pytest.raises(EngineError, match="was not answered"):
        measure_named(pool, (side, Side("other", side.url)), NamedLoad("nobody", 2, 4, rounds=1))


@pytest.mark.usefixtures("nearby")
def test_what_routing_adds_is_measured_in_pairs(pool: Pool, side: Side) -> None:
    report = measure_routing(pool, side, RoutingLoad(questions=12, clients=(1, 3)))
    for row in report["clients"].values():
        assert row["route_ms"]["p50"] > 0
        assert row["added_ms"]["p50"] == pytest.approx(row["routed_ms"]["p50"] - row["named_ms"]["p50"], abs=0.02)


@pytest.mark.usefixtures("nearby")
def test_every_policy_answers_and_is_compared(pool: Pool) -> None:
    report = measure_grouping(pool, GroupingLoad(3, clients=6, requests=12, rounds=2), assembled)
    assert set(report["policies"]) == {"turns", "first_come", "first_come_joined"}
    assert set(report["times"]) == {"first_come", "first_come_joined"}
    assert all(row["kinds"] == {"answer": 12} for row in report["policies"].values())
    assert all(row["longest_wait"] >= 0 for row in report["policies"].values())


def test_one_expert_is_nothing_to_group_by(tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path, ("adder",))))
    with pytest.raises(RequestError, match="1 expert"):
        measure_grouping(pool, GroupingLoad(), assembled)


@pytest.mark.usefixtures("nearby")
def test_a_soak_counts_what_came_of_all_and_how_memory_grew(pool: Pool, side: Side) -> None:
    report = measure_soak(pool, side, SoakLoad(clients=8, minutes=0.03, every=0.1))
    assert report["only_answers_and_429"]
    assert report["kinds"]["answer"] > 8
    assert report["longest_wait"] < report["longest_wait_bound"] == Settings().longest_wait
    assert report["memory"]["mib"] > 1
    assert report["memory"]["samples"] > 1


def test_a_soak_asks_for_everything_that_clients_ask_for(pool: Pool) -> None:
    asked = asks(pool, SoakLoad())
    assert {ask.model for ask in asked} == {*EXPERTS, "symmoe/auto", "symmoe/fast", "symmoe/best"}
    assert {ask.stream for ask in asked} == {True, False}
    assert 0 < sum(ask.leave_after is not None for ask in asked) < len(asked) / 5


@pytest.mark.usefixtures("nearby")
def test_a_service_that_runs_already_is_measured_with_the_users_numbers(pool: Pool, side: Side) -> None:
    wanted = Wanted(str(pool.root / "pool.yaml"), ("named",), side.url, side.url, "sorter", 2, 4, 1, 6, 50.0)
    report = measure(wanted)["named"]
    assert (report["expert"], report["clients"], report["requests"]) == ("sorter", 2, 4)
    assert (report["max_tokens"], report["open_rate"], len(report["rounds"]["closed"])) == (6, 50.0, 1)
    assert report["about"]["cores"] >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_symmoe_is_started_as_anybody_would_and_leaves_no_process(tmp_path: Path) -> None:
    pool = echo_pool(tmp_path / "pool", ("adder", "sorter"))
    with symmoe_serve(str(pool)) as side:
        (outcome,) = crowd(side.url, closed([Ask("sorter", "sums 1", 8, stream=True)], 1))
        started = psutil.Process(side.pid).children(recursive=True)
        assert any("ingress" in name for name in resident(side.pid))
    assert outcome.text == "sorter: sums 1"
    assert gone(started)


@pytest.mark.usefixtures("state")
def test_a_service_that_does_not_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.yaml: no such pool file"), symmoe_serve(str(tmp_path / "none.yaml")):
        pass


@pytest.mark.parametrize("module", ["services", "clients", "loading"])
def test_what_is_run_as_a_process_of_its_own_can_be(module: str) -> None:
    command = [sys.executable, "-m", f"symmoe.bench.{module}", *(["{}"] if module == "services" else [])]
    done = subprocess.run(command, input="{}", capture_output=True, text=True)
    assert done.returncode == 1
    assert "KeyError" in done.stderr or "missing 5 required positional arguments" in done.stderr


STARTS = """
import subprocess, sys
from symmoe.bench.tied import tied
child = subprocess.Popen(tied(["-c", "import time; print('up', flush=True); time.sleep(600)"]), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
SERVES = """
import sys
from symmoe.bench.services import symmoe_serve
with symmoe_serve(sys.argv[1]) as side:
    print(side.pid, flush=True)
    sys.stdin.read()
"""


def killed(code: str, *words: str, lines: int = 1) -> list[psutil.Process]:
    """What a process had started that was killed after so many lines of its output, the first being a number."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline().strip() for _ in range(lines)]
        child = psutil.Process(int(next(line for line in said if line.isdecimal())))
        started = [child, *child.children(recursive=True)]
        parent.kill()
    return started


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_process_ends_with_one_that_is_killed() -> None:
    started = killed(STARTS, lines=2)
    assert len(started) == 1
    assert gone(started)


def test_input_arguments_and_exit_code_go_through() -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    done = subprocess.run(tied(["-c", code, "--part", "a b"]), input="given", capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("['--part', 'a b'] given\n", 7)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_process_whose_parent_is_gone_already_does_not_begin() -> None:
    command = tied(["-c", "print('begun')"])
    command[3] = "1"
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("state")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_service_of_a_benchmark_that_is_killed_ends_with_everything_that_it_started(tmp_path: Path) -> None:
    started = killed(SERVES, str(echo_pool(tmp_path / "pool", ("adder", "sorter"))))
    assert len(started) > 5
    assert gone(started, 60)


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
    headers = {"wait-ms": "1500.0"}
    return [
        Outcome(0, 0, "answer", 0.0, 2.0, first=0.5, tokens=10, headers=headers),
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
    answering = Answering(lambda: float(next(clock)))
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


def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = b"x" * (400 << 20)
    said = subprocess.run(
        [sys.executable, "-c", "from symmoe.bench.machine import peak_mib; print(peak_mib())"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert peak_mib() > 400 > float(said.stdout) > 1
    del held


def test_this_process_takes_memory_and_cores() -> None:
    import os

    assert sum(resident(os.getpid()).values()) > 1 << 20
    ends = sum(os.times()[:2]) + 0.1
    with cores_in_use({"here": [os.getpid()]}) as in_use:
        while sum(os.times()[:2]) < ends:
            pass
    assert in_use.own["here"] > 0
    assert in_use.figures["cores_taken"] == {"here": in_use.own["here"], "clients": 0.0}
    assert tree(2**30) == []
