"""Loads of one model that begin together on several machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.bench.planning import dispatched, simulated_cluster
from symmoe.planning.costs import ExpertCost
from symmoe.planning.grouping import spread
from symmoe.planning.problem import Problem, Worker
from symmoe.planning.scheduling import Schedule, schedule
from symmoe.planning.simulation import AsPredicted, simulate
from symmoe.types import Assignment, Call, Plan, Rates, Step
from tests.fakes import query
from tests.planning.problems import problem, problems

GIB = 1 << 30
RATES = Rates(alone=GIB, storage=8 * GIB, link=8 * GIB, overhead=0.0, measured=0.0)
TWO = (Worker(machine="one"), Worker(machine="two"))
LARGE = ExpertCost(10.0, 1.0, 8 * GIB, rates=RATES)
"""Ten seconds to load, eight of which are reading; two machines together read for four."""
CLOSE = 1 + 1e-9


def test_a_model_that_two_machines_need_is_loaded_by_both_at_once_first_of_all() -> None:
    of = problem({"a": 8, "b": 40}, TWO, LARGE)
    found = schedule(of, 0)
    (load,) = found.joint
    assert (load.model, load.places, load.begin, load.saved) == ("b", {0: 0, 1: 0}, 0.0, 4.0)
    played = simulate(found, of, AsPredicted(of))
    assert [(s.begin, s.end) for s in played.spans if s.expert == "b" and s.kind == "load"] == [(0.0, 6.0)] * 2
    assert played.makespan == pytest.approx(found.makespan)


def test_a_saving_that_storage_does_not_allow_is_none() -> None:
    assert LARGE.saved(2) == 4.0
    assert replace(LARGE, rates=replace(RATES, storage=RATES.alone)).saved(4) == 0.0
    assert replace(LARGE, rates=replace(RATES, link=RATES.alone)).saved(2) == 4.0
    assert replace(LARGE, rates=replace(RATES, overhead=9.0)).saved(2) == 0.0
    assert replace(LARGE, rates=None).saved(2) == 0.0


def test_workers_of_one_machine_load_nothing_together() -> None:
    assert not schedule(problem({"a": 8, "b": 40}, 2, LARGE), 0).joint


def test_what_is_alive_somewhere_is_not_loaded_there_again() -> None:
    seats = (Worker(machine="one", resident="b"), Worker(machine="two"))
    assert not schedule(problem({"a": 8, "b": 40}, seats, LARGE), 0).joint


def test_before_anything_was_measured_loads_are_joint_where_nobody_waits() -> None:
    of = problem({"a": 8, "b": 40}, TWO)
    found = schedule(of, 0)
    assert [(load.begin, load.waited, load.saved) for load in found.joint] == [(0.0, 0.0, 0.0)]
    assert found.makespan == schedule(apart(of), 0).makespan


@st.composite
def clusters(draw: st.DrawFn) -> Problem:
    """Small problems on a few machines, with whatever rates, or none."""
    of = draw(problems(workers=5))
    speed = st.floats(0.1, 100.0)
    rates = st.none() | st.builds(Rates, speed, speed, speed, st.floats(0.0, 2.0), st.just(0.0))
    costs = {name: replace(cost, bytes=draw(st.integers(0, 100)), rates=draw(rates)) for name, cost in of.costs.items()}
    seats = tuple(replace(seat, machine=draw(st.sampled_from("xyz"))) for seat in of.workers)
    return replace(of, costs=costs, workers=seats)


def apart(of: Problem) -> Problem:
    """The same on one machine."""
    return replace(of, workers=tuple(replace(seat, machine="") for seat in of.workers))


@given(clusters())
def test_an_aligned_schedule_is_no_longer_loses_nothing_and_plays_as_planned(of: Problem) -> None:
    found, plain = schedule(of, 0), schedule(apart(of), 0)
    assert found.makespan <= plain.makespan * CLOSE
    assert found.bound <= found.makespan * CLOSE
    planned = Counter[str]()
    for shares in found.shares:
        assert len({share.expert for share in shares}) == len(shares)
        planned.update({share.expert: share.requests for share in shares})
    assert planned == Counter({name: count for name, count in of.requests.items() if count})
    joint_loads_begin_together(of, found)
    every_step_says_with_whom_it_begins(of, found)


def joint_loads_begin_together(of: Problem, found: Schedule) -> None:
    """Each at one moment, on several machines; nobody waits for ever."""
    played = simulate(found, of, AsPredicted(of))
    assert played.makespan == pytest.approx(found.makespan)
    assert sum(span.requests for span in played.spans) == sum(of.requests.values())
    for load in found.joint:
        begins = [
            span.begin
            for worker, place in load.places.items()
            for span in played.spans
            if (span.worker, span.expert, span.kind) == (worker, found.shares[worker][place].expert, "load")
        ]
        assert len(begins) == len(load.places)
        assert begins == pytest.approx([load.begin] * len(begins))
        assert len({of.workers[worker].machine for worker in load.places}) > 1
        assert load.waited <= max(load.saved * len(load.places) * len(load.places), sum(found.seconds))


def every_step_says_with_whom_it_begins(of: Problem, found: Schedule) -> None:
    """And the plan that is divided keeps every call."""

    def step(name: str, count: int) -> Step:
        calls = (Call(name, query("x", f"{name}{n}"), (Assignment(f"{name}{n}", name, 0),)) for n in range(count))
        return Step(name, tuple(calls))

    whole = Plan(tuple(step(name, count) for name, count in of.requests.items() if count))
    divided = spread(whole, found)
    assert Counter(c for s in divided.steps for c in s.calls) == Counter(c for s in whole.steps for c in s.calls)
    told = Counter(s.joint for s in divided.steps if s.joint)
    assert {joint.number: (joint.workers, count) for joint, count in told.items()} == {
        number: (len(load.places), len(load.places)) for number, load in enumerate(found.joint)
    }


@pytest.mark.parametrize(
    ("adapters", "devices", "machines", "models"),
    [(100, 32, 4, 20), pytest.param(200, 64, 8, 40, marks=pytest.mark.slow)],
)
def test_many_devices_and_adapters_save_more_than_they_wait(
    adapters: int, devices: int, machines: int, models: int
) -> None:
    of = simulated_cluster(adapters, devices, machines=machines, seed=0, models=models)
    found, plain = schedule(of, 0), schedule(apart(of), 0)
    assert found.makespan <= plain.makespan
    gained = sum(load.saved * len(load.places) - load.waited for load in found.joint)
    assert gained > 0.02 * sum(plain.seconds)
    assert sum(found.seconds) < 0.98 * sum(plain.seconds)
    assert dispatched(found, of, AsPredicted(of)) <= dispatched(plain, apart(of), AsPredicted(apart(of)))
