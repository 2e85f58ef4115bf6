from __future__ import annotations

import pytest
from hypothesis import given, settings

from symmoe.planning.problem import Instance, Placement, Problem
from symmoe.planning.scheduling import Schedule, Share, as_schedule
from symmoe.planning.simulation import AsPredicted, simulate
from tests.planning.problems import problem, problems


def dealt(of: Problem) -> Schedule:
    """Pieces of up to seven requests, dealt to the workers in turn; experts that need them are split over all."""
    instance = Instance(of)
    placement: Placement = [{} for _ in instance.workers]
    turn = 0
    for expert, count in enumerate(instance.counts):
        for start in range(0, count, 7):
            pieces = placement[turn % len(placement)]
            pieces[expert] = pieces.get(expert, 0) + min(7, count - start)
            turn += 1
    return as_schedule(instance, placement)


@settings(max_examples=60)
@given(problems())
def test_played_with_the_costs_it_was_planned_for_a_schedule_ends_when_predicted(of: Problem) -> None:
    found = dealt(of)
    assert simulate(found, of, AsPredicted(of)).makespan == pytest.approx(found.makespan)


@settings(max_examples=60)
@given(problems())
def test_every_request_is_answered_once_one_expert_at_a_time_and_only_after_its_load(of: Problem) -> None:
    played = simulate(dealt(of), of, AsPredicted(of))
    for worker, seat in enumerate(of.workers):
        loaded, end = seat.resident, 0.0
        for span in (span for span in played.spans if span.worker == worker):
            assert span.begin >= end - 1e-9
            assert span.kind == "load" or span.expert == loaded
            loaded, end = span.expert, span.end
    for name, count in of.requests.items():
        assert sum(span.requests for span in played.spans if span.expert == name) == count


def test_a_split_experts_requests_are_numbered_through() -> None:
    class Heard(AsPredicted):
        def request(self, worker: int, expert: str, number: int) -> float:
            heard.append((worker, number))
            return super().request(worker, expert, number)

    heard: list[tuple[int, int]] = []
    of = problem({"a": 5}, 2)
    found = Schedule(((Share("a", 3),), (Share("a", 2),)), (13.0, 12.0), 0.0, "search", False)
    simulate(found, of, Heard(of))
    assert heard == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)]


def test_prefetching_hides_loads_behind_answers_but_the_first() -> None:
    of = problem({"a": 40, "b": 30, "c": 20}, 2)
    found = Schedule(((Share("a", 40), Share("b", 30), Share("c", 20)), ()), (120.0, 0.0), 0.0, "search", False)
    played = simulate(found, of, AsPredicted(of), prefetch=True)
    assert played.makespan == 10 + 40 + 30 + 20
    loads = [span for span in played.spans if span.kind == "load"]
    assert [(span.begin, span.end) for span in loads] == [(0, 10), (10, 20), (50, 60)]


def test_prefetching_waits_for_a_load_that_takes_longer_than_the_answers() -> None:
    of = problem({"a": 4, "b": 1}, 1)
    found = Schedule(((Share("a", 4), Share("b", 1)),), (25.0,), 0.0, "search", False)
    assert simulate(found, of, AsPredicted(of), prefetch=True).makespan == 10 + 10 + 1
