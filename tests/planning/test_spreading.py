from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.planning.affinity import asked_together
from symmoe.planning.costs import ExpertCost
from symmoe.planning.grouping import plan
from symmoe.planning.problem import Worker
from symmoe.planning.scheduling import Schedule, Share
from symmoe.planning.spreading import Fleet, spread
from symmoe.types import Recruitment
from tests.fakes import query
from tests.planning.test_grouping import MODELS, Batch, batches, calls, recruited


def fleet(workers: int, load: float = 3.0, aggregator: str | None = None) -> Fleet:
    costs = {name: ExpertCost(load, 1.0, swap=min(load, 0.5)) for name in MODELS}
    return Fleet((Worker(),) * workers, costs, aggregator, program_seconds=0)


@settings(max_examples=10)
@given(batches(), st.integers(2, 4), st.sampled_from([0.0, 3.0]))
def test_a_spread_plan_makes_the_same_calls_as_a_whole_one(batch: Batch, workers: int, load: float) -> None:
    queries, recruitments, done = batch
    whole = plan(queries, recruitments, MODELS, done)
    spread = plan(queries, recruitments, MODELS, done, fleet=fleet(workers, load))
    key = [(call.expert, call.query, call.serves) for call in calls(whole)]
    assert Counter(key) == Counter((call.expert, call.query, call.serves) for call in calls(spread))


@settings(max_examples=10)
@given(batches(), st.integers(2, 4))
def test_no_expert_stands_twice_on_one_worker(batch: Batch, workers: int) -> None:
    steps = plan(*batch[:2], MODELS, batch[2], fleet=fleet(workers, 0.0)).steps
    assert len({(step.worker, step.expert) for step in steps}) == len(steps)
    assert all(step.calls and 0 <= step.worker < workers for step in steps)


@settings(max_examples=10)
@given(batches())
def test_with_one_worker_a_plan_is_what_it_is_without_a_fleet(batch: Batch) -> None:
    assert plan(*batch[:2], MODELS, batch[2], fleet=fleet(1)) == plan(*batch[:2], MODELS, batch[2])


@settings(max_examples=10)
@given(batches())
def test_a_spread_plan_depends_on_nothing_but_what_it_is_given(batch: Batch) -> None:
    plans = [plan(*batch[:2], MODELS, batch[2], fleet=fleet(3)) for _ in range(2)]
    assert plans[0] == plans[1]


def test_a_split_experts_calls_go_where_its_questions_are_asked_of_others() -> None:
    queries = [query(f"words {number}", f"q{number}") for number in range(40)]
    others = ["b" if number < 20 else "d" for number in range(40)]
    asked = [recruited(q.id, "a", other) for q, other in zip(queries, others, strict=True)]
    shares = ((Share("a", 15), Share("b", 20)), (Share("d", 20), Share("a", 25)))
    steps = spread(plan(queries, asked, MODELS), Schedule(shares, (), 0.0, "search", False)).steps
    assert [(step.expert, step.worker, len(step.calls)) for step in steps] == [
        ("a", 0, 15),
        ("b", 0, 20),
        ("d", 1, 20),
        ("a", 1, 25),
    ]
    beside = {"b": 0, "d": 0}
    for call in steps[0].calls:
        beside[others[int(call.query.id[1:])]] += 1
    assert beside == {"b": 15, "d": 0}


def test_an_aggregator_is_wanted_by_every_question() -> None:
    recruitments: list[Recruitment] = [recruited("1", "a", "b", "a"), recruited("2", "c")]
    assert asked_together(recruitments) == {("a", "b"): 1}
    assert asked_together(recruitments, "b") == {("a", "b"): 1, ("b", "c"): 1}
