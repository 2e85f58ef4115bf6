from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.planning.costs import ExpertCost
from symmoe.planning.grouping import Fleet, plan, spread
from symmoe.planning.problem import Worker
from symmoe.planning.scheduling import Schedule, Share, asked_together
from symmoe.protocols import Standing
from symmoe.types import Assignment, Call, Plan, Query, Recruitment
from tests.fakes import query

MODELS = {"a": "one", "b": "two", "c": "one", "d": "three", "e": "two"}
Batch = tuple[list[Query], list[Recruitment], set[Assignment]]


def recruited(ident: str, *experts: str) -> Recruitment:
    slots = [experts[:place].count(expert) for place, expert in enumerate(experts)]
    return Recruitment(ident, tuple(map(Assignment, [ident] * len(experts), experts, slots)), {})


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Queries of few texts, greedy and sampled, each with experts, and some assignments that are done."""
    size = draw(st.integers(0, 8))
    queries = [query(draw(st.sampled_from("xyz")), f"q{n}", draw(st.sampled_from([0.0, 0.7]))) for n in range(size)]
    recruitments = [recruited(q.id, *draw(st.lists(st.sampled_from(list(MODELS)), min_size=1))) for q in queries]
    everything = [assignment for r in recruitments for assignment in r.assignments]
    done = draw(st.sets(st.sampled_from(everything))) if everything else set()
    return queries, recruitments, done


def calls(steps: Plan) -> list[Call]:
    return [call for step in steps.steps for call in step.calls]


@given(batches())
def test_every_assignment_that_is_not_done_is_served_by_exactly_one_call(batch: Batch) -> None:
    queries, recruitments, done = batch
    served = Counter(a for call in calls(plan(queries, recruitments, MODELS, done)) for a in call.serves)
    asked = {a for r in recruitments for a in r.assignments} - done
    assert served == Counter(asked)


@given(batches())
def test_a_call_asks_the_expert_and_the_words_of_everything_that_it_serves(batch: Batch) -> None:
    queries, recruitments, done = batch
    texts = {q.id: q.text for q in queries}
    for step in plan(queries, recruitments, MODELS, done).steps:
        for call in step.calls:
            assert {a.expert for a in call.serves} == {call.expert} == {step.expert}
            assert {texts[a.query_id] for a in call.serves} == {call.query.text}


@given(batches())
def test_no_expert_stands_twice_in_a_plan_and_none_has_nothing_to_do(batch: Batch) -> None:
    steps = plan(*batch[:2], MODELS, batch[2]).steps
    assert len({step.expert for step in steps}) == len(steps)
    assert all(step.calls and all(call.serves for call in step.calls) for step in steps)


@given(batches())
def test_experts_of_one_model_stand_together_and_otherwise_keep_the_order_of_the_pool(batch: Batch) -> None:
    steps = plan(*batch[:2], MODELS, batch[2]).steps
    assert [s.expert for s in steps] == [e for e in ("a", "c", "b", "e", "d") if e in {s.expert for s in steps}]


@given(batches(), st.integers(0, 9))
def test_no_two_sampled_calls_have_the_same_seed(batch: Batch, seed: int) -> None:
    seeds = [call.query.sampling.seed for call in calls(plan(*batch[:2], MODELS, batch[2], seed))]
    sampled = [number for number in seeds if number is not None]
    assert len(set(sampled)) == len(sampled)


@given(batches(), st.integers(0, 9))
def test_a_plan_depends_on_nothing_but_what_it_is_given(batch: Batch, seed: int) -> None:
    assert plan(*batch[:2], MODELS, batch[2], seed) == plan(*batch[:2], MODELS, batch[2], seed)


def test_greedy_calls_with_equal_prompts_are_made_once() -> None:
    queries = [query("x", "1"), query("y", "2"), query("x", "3")]
    (step,) = plan(queries, [recruited("1", "a", "a"), recruited("2", "a"), recruited("3", "a")], MODELS).steps
    assert [call.serves for call in step.calls] == [
        (Assignment("1", "a", 0), Assignment("1", "a", 1), Assignment("3", "a", 0)),
        (Assignment("2", "a", 0),),
    ]


def test_greedy_calls_with_other_sampling_are_not_shared() -> None:
    first, second = query("x", "1"), query("x", "2")
    second = replace(second, sampling=replace(second.sampling, max_tokens=99))
    (step,) = plan([first, second], [recruited("1", "a"), recruited("2", "a")], MODELS).steps
    assert [call.query.sampling.max_tokens for call in step.calls] == [16, 99]


def test_an_expert_with_a_bound_is_asked_for_no_more_and_the_others_for_what_was_wanted() -> None:
    asked = query("x", "1")
    steps = plan([asked], [recruited("1", "a", "b", "c")], MODELS, most_tokens={"a": 4, "c": 99}).steps
    bounds = {call.expert: call.query.sampling.max_tokens for step in steps for call in step.calls}
    assert bounds == {"a": 4, "b": 16, "c": 16}


def test_sampled_calls_are_never_shared_and_each_draws_with_a_seed_of_its_own() -> None:
    queries = [query("x", "1", temperature=0.7), query("x", "2", temperature=0.7)]
    steps = plan(queries, [recruited("1", "a", "a", "b"), recruited("2", "a")], MODELS)
    assert [len(call.serves) for call in calls(steps)] == [1, 1, 1, 1]
    seeds = {call.query.sampling.seed for call in calls(steps)}
    assert len(seeds) == 4
    assert None not in seeds


def test_other_seeds_of_the_run_or_of_the_request_give_other_draws() -> None:
    def drawn(run: int, request: int | None) -> int | None:
        asked = query("x", "1", temperature=0.7, seed=request)
        return calls(plan([asked], [recruited("1", "a")], MODELS, seed=run))[0].query.sampling.seed

    assert len({drawn(0, None), drawn(1, None), drawn(0, 5), drawn(0, 6)}) == 4
    assert drawn(0, 5) == drawn(1, 5)  # a request's own seed decides


def test_a_resumed_plan_draws_what_is_missing_with_the_seeds_of_the_first() -> None:
    queries, recruitments = [query("x", "1", temperature=0.7)], [recruited("1", "a", "b", "a")]
    whole = {call.serves: call for call in calls(plan(queries, recruitments, MODELS))}
    done = {Assignment("1", "a", 0)}
    rest = {call.serves: call for call in calls(plan(queries, recruitments, MODELS, done))}
    assert rest == {serves: call for serves, call in whole.items() if serves != (Assignment("1", "a", 0),)}


def test_a_plan_of_nothing_has_no_steps() -> None:
    assert plan([], [], MODELS) == Plan(())


def fleet(workers: int, load: float = 3.0, aggregator: str | None = None) -> Fleet:
    costs = {name: ExpertCost(load, 1.0, swap=min(load, 0.5)) for name in MODELS}
    return Fleet((Worker(),) * workers, costs, aggregator, program_seconds=0)


@settings(max_examples=25)
@given(batches(), st.integers(2, 4), st.sampled_from([0.0, 3.0]))
def test_a_spread_plan_makes_the_same_calls_as_a_whole_one(batch: Batch, workers: int, load: float) -> None:
    queries, recruitments, done = batch
    whole = plan(queries, recruitments, MODELS, done)
    spread = plan(queries, recruitments, MODELS, done, fleet=fleet(workers, load))
    key = [(call.expert, call.query, call.serves) for call in calls(whole)]
    assert Counter(key) == Counter((call.expert, call.query, call.serves) for call in calls(spread))


@settings(max_examples=25)
@given(batches(), st.integers(2, 4))
def test_no_expert_stands_twice_on_one_worker(batch: Batch, workers: int) -> None:
    steps = plan(*batch[:2], MODELS, batch[2], fleet=fleet(workers, 0.0)).steps
    assert len({(step.worker, step.expert) for step in steps}) == len(steps)
    assert all(step.calls and 0 <= step.worker < workers for step in steps)


@settings(max_examples=20)
@given(batches())
def test_with_one_worker_a_plan_is_what_it_is_without_a_fleet(batch: Batch) -> None:
    assert plan(*batch[:2], MODELS, batch[2], fleet=fleet(1)) == plan(*batch[:2], MODELS, batch[2])


@settings(max_examples=20)
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


def test_a_fleet_plans_for_what_its_workers_have_ready_and_asleep() -> None:
    standing = [Standing("", frozenset(), ""), Standing("c", frozenset({"a", "c"}), "")]
    models = {"a": "one", "b": "two", "c": "three"}
    told = replace(fleet(2), standing=lambda: standing)
    assert fleet(2).now(models) == (Worker(), Worker())
    assert told.now(models) == (Worker(), Worker("c", asleep=frozenset({"one", "three"})))


def test_an_aggregator_is_wanted_by_every_question() -> None:
    recruitments: list[Recruitment] = [recruited("1", "a", "b", "a"), recruited("2", "c")]
    assert asked_together(recruitments) == {("a", "b"): 1}
    assert asked_together(recruitments, "b") == {("a", "b"): 1, ("b", "c"): 1}
