from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.bench.planning import simulated_pool
from symmoe.planning.problem import Instance, Placement, Problem
from symmoe.planning.scheduling import Schedule, Share, as_schedule, schedule
from symmoe.planning.simulation import Stealing, Timeline, simulate
from symmoe.planning.truth import AsPredicted, Noisy
from tests.planning.problems import problem, problems

STEALING: list[Stealing] = ["steps", "requests"]


def lopsided() -> tuple[Problem, Schedule]:
    """Everything on the first of two workers, loads of 10 s and requests of 1 s."""
    of = problem({"a": 40, "b": 30, "c": 20}, 2)
    return of, Schedule(((Share("a", 40), Share("b", 30), Share("c", 20)), ()), (120.0, 0.0), 0.0, "search", False)


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


def answered(timeline: Timeline) -> dict[str, list[int]]:
    return {expert: sorted(number for number, _ in seen) for expert, seen in timeline.answered.items()}


@settings(max_examples=60)
@given(problems())
def test_played_with_the_costs_it_was_planned_for_a_schedule_ends_when_predicted(of: Problem) -> None:
    found = dealt(of)
    assert simulate(found, of, AsPredicted(of)).makespan == pytest.approx(found.makespan)


@settings(max_examples=60)
@given(problems(), st.integers(0, 99), st.booleans(), st.sampled_from(["none", *STEALING]), st.floats(0.2, 5))
def test_every_request_is_answered_exactly_once_whatever_moves(
    of: Problem, seed: int, prefetch: bool, stealing: Stealing, slow: float
) -> None:
    played = simulate(dealt(of), of, Noisy(of, seed, slow={0: slow}), prefetch, stealing)
    assert answered(played) == {name: list(range(count)) for name, count in of.requests.items() if count}
    by_worker = Counter((span.worker, span.expert) for span in played.spans for _ in range(span.requests))
    seen = Counter((worker, expert) for expert, each in played.answered.items() for _, worker in each)
    assert by_worker == seen


@settings(max_examples=60)
@given(problems(), st.integers(0, 99), st.sampled_from(["none", *STEALING]))
def test_a_worker_answers_one_request_at_a_time_and_only_after_its_load(
    of: Problem, seed: int, stealing: Stealing
) -> None:
    played = simulate(dealt(of), of, Noisy(of, seed), stealing=stealing)
    for worker, seat in enumerate(of.workers):
        loaded, end = seat.resident, 0.0
        for span in (span for span in played.spans if span.worker == worker):
            assert span.begin >= end - 1e-9
            assert span.kind == "load" or span.expert == loaded
            loaded, end = span.expert, span.end


@settings(max_examples=80)
@given(problems(), st.integers(0, 99), st.sampled_from(STEALING), st.floats(0.2, 5), st.booleans())
def test_stealing_costs_two_loads_and_requests_at_most(
    of: Problem, seed: int, stealing: Stealing, slow: float, predicted: bool
) -> None:
    truth = AsPredicted(of) if predicted else Noisy(of, seed, slow={0: slow})
    found = dealt(of)
    alone = simulate(found, of, truth).makespan
    stolen = simulate(found, of, truth, stealing=stealing)
    loads = [s.end - s.begin for s in stolen.spans if s.kind == "load"]
    requests = [truth.request(w, e, n) for e, seen in stolen.answered.items() for n, w in seen]
    assert stolen.makespan <= alone + 2 * (max(loads, default=0.0) + max(requests, default=0.0)) + 1e-6


@pytest.mark.parametrize("stealing", STEALING)
def test_an_idle_worker_takes_over_what_lets_both_end_sooner(stealing: Stealing) -> None:
    of, found = lopsided()
    played = simulate(found, of, AsPredicted(of), stealing=stealing)
    assert played.steals >= 1
    assert played.makespan < 75


def test_steps_that_have_begun_are_left_alone_unless_requests_may_move() -> None:
    of = problem({"a": 90}, 2)
    found = Schedule(((Share("a", 90),), ()), (100.0, 0.0), 0.0, "search", False)
    left = simulate(found, of, AsPredicted(of), stealing="steps")
    moved = simulate(found, of, AsPredicted(of), stealing="requests")
    assert (left.makespan, left.steals) == (100, 0)
    assert moved.makespan == pytest.approx(55, abs=1)


def test_nothing_is_stolen_where_the_load_costs_more_than_is_gained() -> None:
    of = problem({"a": 9, "b": 3}, 2)
    found = Schedule(((Share("a", 9),), (Share("b", 3),)), (19.0, 13.0), 0.0, "search", False)
    assert simulate(found, of, AsPredicted(of), stealing="requests").steals == 0


def test_prefetching_hides_loads_behind_answers_but_the_first() -> None:
    of, found = lopsided()
    played = simulate(found, of, AsPredicted(of), prefetch=True)
    assert played.makespan == 10 + 40 + 30 + 20
    loads = [span for span in played.spans if span.kind == "load"]
    assert [(span.begin, span.end) for span in loads] == [(0, 10), (10, 20), (50, 60)]


def test_prefetching_waits_for_a_load_that_takes_longer_than_the_answers() -> None:
    of = problem({"a": 4, "b": 1}, 1)
    found = Schedule(((Share("a", 4), Share("b", 1)),), (25.0,), 0.0, "search", False)
    assert simulate(found, of, AsPredicted(of), prefetch=True).makespan == 10 + 10 + 1


def test_a_slow_worker_is_relieved_by_stealing() -> None:
    of = simulated_pool(16, 4, seed=1)
    found = schedule(of, program_seconds=0)
    truth = Noisy(of, 1, slow={0: 3.0})
    ends = [simulate(found, of, truth, stealing=way).makespan for way in ("none", "requests")]  # type: ignore[arg-type]
    assert ends[1] < 0.7 * ends[0]


def test_noise_has_the_mean_that_was_predicted_and_is_the_same_under_one_seed() -> None:
    of = problem({"a": 1}, 1)
    noise = Noisy(of, 3, experts=0.0)
    drawn = [noise.request(0, "a", number) for number in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1.0, rel=0.05)
    assert drawn[:9] == [Noisy(of, 3, experts=0.0).request(0, "a", number) for number in range(9)]
    assert drawn[:9] != [Noisy(of, 4, experts=0.0).request(0, "a", number) for number in range(9)]
    assert noise.load(0, "a", None) != 10
    assert noise.load(0, "a", "a") == 0
