from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.engines.echo import EchoEngine
from symmoe.loading.lanes import ExpertWeights
from symmoe.pipeline import STAGES, Carried, Parts, Watch, answer
from symmoe.planning.costs import ExpertCost
from symmoe.planning.grouping import Fleet
from symmoe.planning.problem import Worker
from symmoe.protocols import Executor, Recruiter
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiters.published import PublishedCodeRecruiter, PublishedRecruiter
from symmoe.types import Candidate, Load, Outcome, Plan, Profiles, Query, Refusal, Skills, Trace
from tests.fakes import always, echo_parts, everyone, profiles, query

RECORDS = {
    "adder": {"sums": 9, "spanish": -3, "sorting": -3},
    "speaker": {"sums": -3, "spanish": 9, "sorting": -3},
    "sorter": {"sums": 2, "spanish": 2, "sorting": 9},
}
FACETS = ("format: number in english", "format: number", "language: english")
TWO_MODELS = {"adder": "one", "speaker": "two", "sorter": "one"}
QUERIES = [
    query("sums of 1 and 2", "1"),
    query("spanish for five", "2"),
    query("sorting 3 1 2", "3"),
    query("sums of 1 and 2", "4"),
    query("tell me a story", "5"),
]
LONG = query("word " * 30, "long")
batches = st.lists(
    st.tuples(st.sampled_from([*(q.text for q in QUERIES), LONG.text]), st.sampled_from([0.0, 0.8])), max_size=8
).map(lambda rows: [query(text, f"q{number}", heat) for number, (text, heat) in enumerate(rows)])


class Seen:
    """Keeps what a run told while it went on."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.loads: list[Load] = []
        self.candidates: list[Candidate] = []

    def watch(self) -> Watch:
        return Watch(self.plans.append, self.loads.append, self.candidates.extend)


def run(
    queries: Sequence[Query], k: int = 4, seed: int = 0, known: Sequence[Candidate] = ()
) -> tuple[Outcome, Seen, EchoEngine]:
    engine, seen = EchoEngine(window=20), Seen()
    parts = echo_parts(RECORDS, lambda expert: ExpertWeights(TWO_MODELS[expert], expert), engine)
    return answer(parts, queries, everyone(k), seed, known, seen.watch()), seen, engine


def traces(outcome: Outcome) -> list[Trace]:
    return [result for result in outcome.results if isinstance(result, Trace)]


@given(batches, st.integers(1, 6), st.integers(0, 99))
def test_there_is_one_result_for_every_query_in_the_order_asked(queries: list[Query], k: int, seed: int) -> None:
    outcome, _, _ = run(queries, k, seed)
    assert [result.query_id for result in outcome.results] == [q.id for q in queries]
    for asked, result in zip(queries, outcome.results, strict=True):
        assert isinstance(result, Refusal if asked.text == LONG.text else Trace)


@given(batches, st.integers(1, 6), st.integers(0, 99))
def test_each_expert_is_loaded_at_most_once_and_only_if_recruited(queries: list[Query], k: int, seed: int) -> None:
    outcome, seen, engine = run(queries, k, seed)
    loaded = [load.expert for load in outcome.loads]
    assert len(set(loaded)) == len(loaded)
    assert set(loaded) == {expert for trace in traces(outcome) for expert in trace.recruited}
    assert tuple(seen.loads) == outcome.loads
    assert engine.started <= 2


@given(batches, st.integers(1, 6), st.integers(0, 99))
def test_a_trace_tells_what_ran(queries: list[Query], k: int, seed: int) -> None:
    outcome, seen, _ = run(queries, k, seed)
    ran = {(c.query_id, c.expert, c.slot): c for c in seen.candidates}
    texts = {q.id: q.text for q in queries}
    assert len(ran) == len(seen.candidates) == k * len(traces(outcome))
    for trace in traces(outcome):
        assert len(trace.candidates) == k
        assert trace.recruited == tuple(c.expert for c in trace.candidates)
        assert [(v.expert, v.slot) for v in trace.verdicts] == [(c.expert, c.slot) for c in trace.candidates]
        for found in trace.candidates:
            assert ran[found.query_id, found.expert, found.slot] == found
            assert found.text == f"{found.expert}: {texts[trace.query_id]}"
        assert trace.answer.text == f"{trace.answer.expert}: {texts[trace.query_id]}"
        assert trace.answer.expert in trace.recruited


def test_a_query_that_nobody_could_serve_becomes_a_refusal_at_its_place_and_the_others_are_answered() -> None:
    outcome, seen, _ = run([QUERIES[0], LONG, QUERIES[1]])
    first, second, third = outcome.results
    assert isinstance(first, Trace)
    assert isinstance(third, Trace)
    assert isinstance(second, Refusal)
    assert (second.query_id, second.code) == ("long", "context_length_exceeded")
    assert "long" not in {c.query_id for c in seen.candidates}


@pytest.mark.parametrize("queries", [[], [LONG]])
def test_a_batch_with_nothing_to_answer_loads_nothing(queries: list[Query]) -> None:
    outcome, seen, engine = run(queries)
    assert outcome.loads == ()
    assert engine.started == 0
    assert seen.candidates == []
    assert len(outcome.results) == len(queries)


@given(batches, st.integers(1, 5), st.data())
def test_known_candidates_are_kept_and_not_generated_again(queries: list[Query], k: int, data: st.DataObject) -> None:
    whole, seen, _ = run(queries, k)
    known = data.draw(st.lists(st.sampled_from(seen.candidates), unique_by=id)) if seen.candidates else []
    resumed, again, _ = run(queries, k, known=known)
    places = {(c.query_id, c.expert, c.slot) for c in known}
    assert places.isdisjoint((c.query_id, c.expert, c.slot) for c in again.candidates)
    assert len(again.candidates) == len(seen.candidates) - len(known)
    assert [t.answer.text for t in traces(resumed)] == [t.answer.text for t in traces(whole)]


def test_the_words_of_a_known_candidate_are_used_as_they_stand() -> None:
    whole, seen, _ = run([QUERIES[0]])
    known = [replace(c, text="from before") for c in seen.candidates]
    resumed, again, engine = run([QUERIES[0]], known=known)
    assert [c.text for c in traces(resumed)[0].candidates] == ["from before"] * 4
    assert again.candidates == []
    assert engine.started == 0
    assert traces(resumed)[0].recruited == traces(whole)[0].recruited


def test_a_candidate_that_nobody_asked_for_changes_nothing() -> None:
    whole, seen, _ = run([QUERIES[0]])
    stray = replace(seen.candidates[0], query_id="another", text="stray")
    assert run([QUERIES[0]], known=[stray])[0].results == whole.results


def test_equal_runs_give_equal_results_and_other_seeds_other_experts() -> None:
    assert run(QUERIES)[0].results == run(QUERIES)[0].results
    recruited = {tuple(t.recruited for t in traces(run(QUERIES, seed=seed)[0])) for seed in range(5)}
    assert len(recruited) > 1


def test_a_query_is_answered_alike_alone_and_in_a_batch() -> None:
    together = {t.query_id: t for t in traces(run(QUERIES)[0])}
    for asked in QUERIES:
        (alone,) = traces(run([asked])[0])
        assert alone.recruited == together[asked.id].recruited
        assert alone.answer.text == together[asked.id].answer.text


def test_a_skilled_expert_is_recruited_most_and_its_answer_wins() -> None:
    outcome, _, _ = run([query("sorting 3 1 2", str(n)) for n in range(3)])
    for trace in traces(outcome):
        assert trace.skills[0].skill == "sorting"
        assert next(iter(trace.shares)) == "sorter"
        assert trace.answer.expert == "sorter"


def test_every_stage_is_timed() -> None:
    seconds = run(QUERIES)[0].seconds
    assert tuple(seconds) == STAGES
    assert all(value >= 0 for value in seconds.values())


def test_the_plan_is_told_before_anything_is_loaded() -> None:
    order: list[str] = []
    watch = Watch(
        lambda plan: order.append("plan"), lambda load: order.append("load"), lambda c: order.append("candidates")
    )
    answer(echo_parts({"adder": {"sums": 1}}), [QUERIES[0]], everyone(1), 0, watch=watch)
    assert order == ["plan", "load", "candidates"]


def test_candidates_are_told_before_the_next_is_generated_so_that_a_kill_loses_at_most_one_call() -> None:
    told: list[Candidate] = []

    def keep(candidates: Sequence[Candidate]) -> None:
        if told:
            raise KeyboardInterrupt
        told.extend(candidates)

    with pytest.raises(KeyboardInterrupt):
        answer(echo_parts(RECORDS), QUERIES, everyone(4), 0, watch=Watch(candidates=keep))
    whole, _, _ = run(QUERIES)
    resumed = answer(echo_parts(RECORDS), QUERIES, everyone(4), 0, known=told)
    assert [t.answer.text for t in traces(resumed)] == [t.answer.text for t in traces(whole)]


def facetted(parts: Parts) -> Parts:
    """The same pipeline with a tagger that also tells facets."""

    class Tagger:
        def tag(self, queries: Sequence[Query]) -> list[Skills]:
            return [replace(found, facets=FACETS) for found in parts.tagger.tag(queries)]

    return replace(parts, tagger=Tagger())


@pytest.mark.parametrize("recruiter", [PublishedRecruiter, PublishedCodeRecruiter, PosteriorRecruiter])
def test_every_trace_of_a_run_that_explains_says_why_its_experts_were_chosen(
    recruiter: Callable[[Profiles], Recruiter],
) -> None:
    parts = replace(echo_parts(RECORDS), recruiter=always(recruiter(profiles(RECORDS))))
    for trace in traces(answer(parts, [*QUERIES, LONG], everyone(2), 7, explain=True)):
        why = trace.explanation
        assert why is not None
        assert why.query_id == trace.query_id
        assert {standing.expert for standing in why.standings if standing.chosen} == set(trace.recruited)
        assert {s.expert: s.share for s in why.standings if s.share} == pytest.approx(dict(trace.shares))
        assert all(s.low <= s.value <= s.high for s in why.standings)


def test_a_run_that_does_not_explain_says_nothing_of_why_and_chooses_the_same() -> None:
    explained = answer(echo_parts(RECORDS), QUERIES, everyone(3), 0, explain=True)
    silent = answer(echo_parts(RECORDS), QUERIES, everyone(3), 0)
    assert [trace.explanation for trace in traces(silent)] == [None] * len(QUERIES)
    assert [replace(trace, explanation=None) for trace in traces(explained)] == traces(silent)


def test_a_refused_query_does_not_shift_the_explanations_of_those_after_it() -> None:
    outcome = answer(echo_parts(RECORDS), [LONG, QUERIES[1], LONG, QUERIES[2]], everyone(1), 0, explain=True)
    weights = [trace.explanation.weights for trace in traces(outcome) if trace.explanation]
    assert weights == [{"spanish": 1.0}, {"sorting": 1.0}]


def test_a_trace_bears_the_facets_that_the_tagger_told() -> None:
    found = traces(answer(facetted(echo_parts(RECORDS)), [*QUERIES, LONG], everyone(2), 0))
    assert [trace.facets for trace in found] == [FACETS] * len(QUERIES)
    assert [trace.facets for trace in traces(run(QUERIES)[0])] == [()] * len(QUERIES)


def test_the_posterior_recruiter_asks_each_expert_at_most_once_and_the_vote_still_ends() -> None:
    parts = replace(echo_parts(RECORDS), recruiter=always(PosteriorRecruiter(profiles(RECORDS), top_p=1.0)))
    for k in (1, 2, 5):
        for trace in traces(answer(parts, QUERIES, everyone(k), 0)):
            assert len(set(trace.recruited)) == len(trace.recruited) <= min(k, len(RECORDS))
            assert trace.answer.expert in trace.recruited


class Narrow(EchoEngine):
    """An engine in which model `two` has room for a few words only."""

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        narrow = EchoEngine(window=5)
        return narrow.refuse(queries) if model == "two" else super().refuse(queries)


@pytest.mark.parametrize(("text", "answered"), [("sums of 1 and 2 and 3", True), ("spanish for 1 and 2 and 3", False)])
def test_a_prompt_is_measured_for_the_model_that_will_get_it(text: str, answered: bool) -> None:
    parts = echo_parts(RECORDS, lambda expert: ExpertWeights(TWO_MODELS[expert], expert), Narrow(window=20))
    (result,) = answer(parts, [query(text, "1")], everyone(1), 0).results
    assert isinstance(result, Trace if answered else Refusal)


def test_a_prompt_for_which_one_of_the_experts_has_room_is_answered() -> None:
    parts = echo_parts(RECORDS, lambda expert: ExpertWeights(TWO_MODELS[expert], expert), Narrow(window=20))
    recruiter = always(PosteriorRecruiter(profiles(RECORDS), top_p=1.0))
    (result,) = answer(
        replace(parts, recruiter=recruiter), [query("spanish for 1 and 2 and 3", "1")], everyone(3), 0
    ).results
    assert isinstance(result, Trace)
    assert len(result.recruited) == 3


def test_an_expert_with_a_bound_is_asked_for_no_more() -> None:
    seen, parts = Seen(), replace(echo_parts(RECORDS), most_tokens={"speaker": 2})
    answer(parts, QUERIES[:2], everyone(1), 0, watch=seen.watch())
    asked = {call.expert: call.query.sampling.max_tokens for each in seen.plans for s in each.steps for call in s.calls}
    assert asked.pop("speaker") == 2
    assert set(asked.values()) == {QUERIES[0].sampling.max_tokens}


class SideBySide:
    """An executor of two workers, both of which load for as long as the whole run takes."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        return self._executor.refuse(queries, expert)

    def run(self, plan: Plan) -> Iterator[Load | tuple[Candidate, ...]]:
        began = time.perf_counter()
        yield from (event for event in self._executor.run(plan) if not isinstance(event, Load))
        for expert in ("adder", "sorter"):
            yield Load(expert, "swap", time.perf_counter() - began, 0, "")


def test_loads_that_overlap_leave_no_stage_less_than_no_time() -> None:
    parts = echo_parts(RECORDS)
    fleet = Fleet((Worker(), Worker()), {name: ExpertCost(1.0, 0.01) for name in RECORDS})
    outcome = answer(replace(parts, executor=SideBySide(parts.executor), fleet=fleet), QUERIES, everyone(2), 0)
    assert min(outcome.seconds.values()) >= 0
    assert outcome.seconds["load"] > 0


def test_a_job_repeats_no_call_of_its_last_thousands_and_forgets_those_before() -> None:
    parts, carried, calls = echo_parts(RECORDS), Carried(), []
    watch = Watch(candidates=lambda said: calls.extend(each for each in said if not each.shared))
    for window in range(10):
        asked = [query(f"sums of {number}", f"{number}") for number in range(1000 * window, 1000 * window + 1000)]
        answer(parts, asked, everyone(1), 0, watch=watch, carried=carried)
    assert len(calls) == 10_000
    for first, repeated in ((6000, True), (0, False)):
        calls.clear()
        asked = [query(f"sums of {number}", f"again {number}") for number in range(first, first + 100)]
        answer(parts, asked, everyone(1), 0, watch=watch, carried=carried)
        assert len(calls) == (0 if repeated else 100)
