from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.bench.planning import simulated_pool
from symmoe.errors import PoolError
from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Instance, Placement, Problem, Worker, lower_bound
from symmoe.planning.program import solve
from symmoe.planning.scheduling import Schedule, schedule
from symmoe.planning.search import fill, improved, longest_first, round_robin
from tests.planning.problems import problem, problems, shortest

CLOSE = 1 + 1e-6


def placement(of: Problem, found: Schedule) -> Placement:
    places = {name: place for place, name in enumerate(Instance(of).names)}
    return [{places[share.expert]: share.requests for share in shares} for shares in found.shares]


@settings(max_examples=8)
@given(problems())
def test_every_request_is_placed_once_and_no_expert_twice_on_one_worker(of: Problem) -> None:
    found = schedule(of, program_seconds=0)
    placed: Counter[str] = Counter()
    for shares in found.shares:
        assert len({share.expert for share in shares}) == len(shares)
        assert all(share.requests > 0 for share in shares)
        placed.update({share.expert: share.requests for share in shares})
    assert placed == Counter({name: count for name, count in of.requests.items() if count})
    assert len(found.shares) == len(found.seconds) == len(of.workers)


@settings(max_examples=8)
@given(problems())
def test_no_schedule_is_longer_than_the_simple_ways_or_shorter_than_the_bound(of: Problem) -> None:
    instance = Instance(of)
    found = schedule(of, program_seconds=0)
    simple = min(instance.makespan(longest_first(instance)), instance.makespan(round_robin(instance)))
    assert lower_bound(instance) <= found.makespan * CLOSE
    assert found.bound <= found.makespan * CLOSE
    assert found.makespan <= simple * CLOSE


@settings(max_examples=8)
@given(problems(experts=3, workers=2, most=5))
def test_a_small_problem_is_solved_to_the_optimum_and_the_bound_holds(of: Problem) -> None:
    instance, best = Instance(of), shortest(of)
    assert lower_bound(instance) <= best * CLOSE
    known = instance.makespan(longest_first(instance))
    if not instance.names:
        return
    solved = solve(instance, known, 10.0)
    ends = known if solved.placement is None else min(known, instance.makespan(solved.placement))
    assert solved.proved
    assert best / CLOSE <= ends <= best * (1 + 1e-3)


@settings(max_examples=8)
@given(problems(), st.integers(0, 5))
def test_search_never_ends_later_than_it_began(of: Problem, seed: int) -> None:
    instance = Instance(of)
    start = round_robin(instance)
    found = improved(instance, start, 0.0, 20, seed)
    assert instance.makespan(found) <= instance.makespan(start) * CLOSE
    assert sum(Counter(dict(pieces)).total() for pieces in found) == sum(instance.counts)


@given(problems())
def test_a_filling_ends_by_the_time_that_it_was_given(of: Problem) -> None:
    instance = Instance(of)
    seconds = instance.makespan(longest_first(instance))
    filled = fill(instance, seconds)
    if filled is not None:
        assert instance.makespan(filled) <= seconds * CLOSE + 1e-6
        assert sum(Counter(dict(pieces)).total() for pieces in filled) == sum(instance.counts)


def test_a_heavy_expert_is_split_where_its_load_is_worth_it() -> None:
    found = schedule(problem({"a": 100, "b": 10}, workers=3))
    assert found.makespan == pytest.approx(10 + 100 / 2, abs=10)
    assert sum(share.expert == "a" for shares in found.shares for share in shares) >= 2


def test_an_expert_is_not_split_where_the_second_load_costs_more_than_it_gains() -> None:
    found = schedule(problem({"a": 5, "b": 9}, workers=2))
    assert found.makespan == 19
    assert [len(shares) for shares in found.shares] == [1, 1]


def test_an_expert_that_is_ready_stays_where_it_is_and_goes_first() -> None:
    found = schedule(problem({"a": 10, "b": 12}, [Worker(), Worker("b")]))
    assert found.shares[1][0].expert == "b"
    assert found.makespan < 22


def test_an_expert_goes_where_its_engine_sleeps_and_comes_before_those_that_need_a_new_one() -> None:
    cost = ExpertCost(10.0, 1.0, swap=0.1, wake=0.1)
    seats = (Worker("a"), Worker("b", asleep=frozenset({"c"})))
    found = schedule(problem({"a": 9, "b": 1, "c": 9, "d": 1}, seats, cost), program_seconds=0)
    assert [[share.expert for share in shares] for shares in found.shares] == [["a", "d"], ["b", "c"]]
    assert found.seconds == pytest.approx((9 + 10 + 1, 1 + 0.1 + 9))
    alone = (Worker(asleep=frozenset({"b"})),)
    (shares,) = schedule(problem({"a": 9, "b": 1}, alone, cost), program_seconds=0).shares
    assert [share.expert for share in shares] == ["b", "a"]


def test_experts_of_one_model_share_a_worker_where_swaps_are_cheap() -> None:
    cost = ExpertCost(50.0, 1.0, swap=1.0)
    models = {"a": "one", "b": "two", "c": "one", "d": "two"}
    found = schedule(problem(dict.fromkeys("abcd", 10), 2, cost, models))
    assert {frozenset(share.expert for share in shares) for shares in found.shares} == {
        frozenset("ac"),
        frozenset("bd"),
    }
    assert found.makespan == 50 + 1 + 20


def test_experts_of_one_model_stand_together_and_longer_ones_first() -> None:
    cost = ExpertCost(50.0, 1.0, swap=1.0)
    models = {"a": "one", "b": "two", "c": "one", "d": "two"}
    found = schedule(problem({"a": 1, "b": 9, "c": 20, "d": 5}, 1, cost, models))
    assert [share.expert for share in found.shares[0]] == ["c", "a", "b", "d"]


def test_a_worker_is_given_no_expert_that_exceeds_its_memory() -> None:
    costs = {"a": ExpertCost(10, 1, bytes=8), "b": ExpertCost(10, 1, bytes=80), "c": ExpertCost(10, 1, bytes=80)}
    of = problem({"a": 2, "b": 50, "c": 50}, [Worker(memory=10), Worker(memory=100), Worker()], costs)
    for program_seconds in (0, 5):
        found = schedule(of, program_seconds)
        assert {share.expert for share in found.shares[0]} <= {"a"}


def test_an_expert_that_fits_nowhere_is_told_by_name() -> None:
    costs = {"a": ExpertCost(10, 1, bytes=80)}
    with pytest.raises(PoolError, match="'a' fits in no worker's memory"):
        schedule(problem({"a": 1}, [Worker(memory=10)], costs))


def test_there_must_be_a_worker() -> None:
    with pytest.raises(PoolError, match="no worker"):
        schedule(problem({"a": 1}, workers=0))


def test_experts_without_requests_take_no_part() -> None:
    found = schedule(problem({"a": 0, "b": 0}, workers=2))
    assert (found.shares, found.makespan, found.bound) == (((), ()), 0.0, 0.0)


def test_what_is_asked_together_shares_a_worker_where_that_costs_nothing() -> None:
    of = problem(dict.fromkeys("abcd", 10), 2, together={("a", "d"): 5, ("c", "b"): 5})
    found = schedule(of)
    assert {frozenset(share.expert for share in shares) for shares in found.shares} == {
        frozenset("ad"),
        frozenset("bc"),
    }


def wishes_met(of: Problem, placed: Placement) -> float:
    names = Instance(of).names
    workers = [{names[expert] for expert in pieces} for pieces in placed]
    return sum(count for pair, count in of.together.items() for there in workers if there.issuperset(pair))


@settings(max_examples=8)
@given(problems())
def test_being_together_costs_one_percent_at_most(of: Problem) -> None:
    alone = Problem(of.requests, of.costs, of.models, of.workers)
    without, with_wishes = schedule(alone, 0), schedule(of, 0)
    assert with_wishes.makespan <= without.makespan * 1.01 * CLOSE
    met = [wishes_met(of, placement(of, found)) for found in (without, with_wishes)]
    assert met[1] >= met[0] - 1e-9


def test_a_proved_schedule_is_within_the_solvers_gap_of_its_bound() -> None:
    costs = {name: ExpertCost(30 + 7 * n, 1 + n / 3) for n, name in enumerate("abcd")}
    found = schedule(problem({"a": 90, "b": 61, "c": 13, "d": 44}, 3, costs), program_seconds=10)
    assert found.optimal
    assert found.bound <= found.makespan <= found.bound * (1 + 2e-4)


@pytest.mark.parametrize(("experts", "devices"), [(6, 4), (16, 4), (32, 8), (200, 16)])
def test_simulated_pools_are_planned_within_five_percent_of_the_bound(experts: int, devices: int) -> None:
    of = simulated_pool(experts, devices, seed=0)
    assert schedule(of, program_seconds=0).makespan <= 1.05 * lower_bound(Instance(of))


def test_the_program_keeps_experts_whole_where_it_must_not_split() -> None:
    of = problem({"a": 40, "b": 20, "c": 20}, 2)
    instance = Instance(of)
    whole = solve(instance, instance.makespan(longest_first(instance)) + 1, 5.0, split=False)
    assert whole.proved
    assert whole.placement is not None
    assert sorted(instance.all_seconds(whole.placement)) == [50, 60]
    assert sum(map(len, whole.placement)) == 3


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    of = simulated_pool(6, 4, seed=0)
    schedule(of, program_seconds=1.0)
    assert capfd.readouterr().out == ""
