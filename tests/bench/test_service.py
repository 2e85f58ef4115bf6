from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from symmoe.bench.clients import Ask, Load, closed, crowd, opened, run
from symmoe.bench.grouping import GroupingLoad, measure_grouping
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
from symmoe.bench.services import Side
from symmoe.config import Pool, read_pool
from symmoe.errors import EngineError, RequestError
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, assembled, running

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
    assert whole.told["path"] == "named"


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
