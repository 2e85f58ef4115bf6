"""The pipeline with an aggregator: second plan, fallbacks, resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from symmoe.aggregation.synthesis import SLOT, Synthesis
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.loading.lanes import ExpertWeights
from symmoe.pipeline import STAGES, Parts, Watch, answer
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.types import Call, Candidate, Generation, Load, Outcome, Plan, Query, Refusal, Trace
from tests.fakes import always, echo_parts, everyone, profiles, query

RECORDS = {"adder": {"sums": 9}, "speaker": {"sums": 8}, "sorter": {"sums": 7}}
ASKED = [query("sums of 5 and 7", "one"), query("sums of 6 and 6", "two")]
SPLIT = {"adder": "12", "speaker": "13", "sorter": "14"}
ALIKE = {"adder": "12", "speaker": "12", "sorter": "12"}


class Scripted(EchoEngine):
    """Every expert has one answer, or raises it; asked as an aggregator, whoever it is, it answers `synthesis`."""

    def __init__(self, answers: Mapping[str, str], synthesis: str | EngineError) -> None:
        super().__init__(window=100_000)
        self._answers, self._synthesis = answers, synthesis
        self.prompts: list[str] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call in calls:
            aggregates = "<<<candidate" in call.query.text
            if not aggregates:
                yield call, Generation(self._answers[call.expert], "stop", 10, 5)
            elif isinstance(self._synthesis, EngineError):
                raise self._synthesis
            else:
                self.prompts.append(call.query.text)
                yield call, Generation(self._synthesis, "stop", 100, 7)


@dataclass
class Seen:
    plans: list[Plan] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)

    def watch(self) -> Watch:
        return Watch(self.plans.append, self.loads.append, self.candidates.extend)


def parts(engine: EchoEngine, synthesis: Synthesis | None) -> Parts:
    made = echo_parts(RECORDS, lambda expert: ExpertWeights("base", expert), engine)
    return replace(made, recruiter=always(PosteriorRecruiter(profiles(RECORDS), top_p=1.0)), synthesis=synthesis)


def run(
    answers: Mapping[str, str] = SPLIT,
    synthesis: str | EngineError = "13",
    queries: Sequence[Query] = ASKED,
    known: Sequence[Candidate] = (),
    aggregator: str = "sorter",
) -> tuple[Outcome, Seen, Scripted]:
    engine, seen = Scripted(answers, synthesis), Seen()
    outcome = answer(parts(engine, Synthesis(lambda q: aggregator)), queries, everyone(3), 0, known, seen.watch())
    return outcome, seen, engine


def traces(outcome: Outcome) -> list[Trace]:
    return [result for result in outcome.results if isinstance(result, Trace)]


def test_queries_that_need_a_synthesis_form_a_second_plan_of_one_step() -> None:
    outcome, seen, engine = run()
    assert [[(step.expert, len(step.calls)) for step in plan.steps] for plan in seen.plans[1:]] == [[("sorter", 2)]]
    assert len(engine.prompts) == 2
    for trace in traces(outcome):
        assert (trace.answer.text, trace.answer.expert, trace.answer.origin) == ("13", "sorter", "synthesis")
        assert trace.synthesis is not None
        assert trace.synthesis.slot == SLOT
        assert trace.consensus is not None
        assert trace.consensus.opinions == 3
        assert (trace.answer.prompt_tokens, trace.answer.completion_tokens) == (130, 22)


def test_loads_of_aggregators_are_told_timed_and_counted() -> None:
    outcome, seen, _ = run(aggregator="adder")
    assert [load.expert for load in outcome.loads][-1] == "adder"
    assert tuple(seen.loads) == outcome.loads
    assert tuple(outcome.seconds) == STAGES
    assert sum(o.requests for o in outcome.observations if o.expert == "adder") == 4


def test_where_experts_agree_no_aggregator_is_loaded() -> None:
    outcome, seen, engine = run(ALIKE)
    assert len(seen.plans) == 1
    assert engine.prompts == []
    assert {(t.answer.origin, t.answer.text, t.synthesis) for t in traces(outcome)} == {("vote", "12", None)}


def test_without_an_aggregator_everything_is_the_vote_s() -> None:
    outcome = answer(parts(Scripted(SPLIT, "13"), None), ASKED, everyone(3), 0)
    assert {(t.answer.origin, t.answer.why, t.consensus) for t in traces(outcome)} == {("vote", "", None)}


def test_an_aggregator_that_cannot_run_costs_no_answer() -> None:
    outcome, _, _ = run(synthesis=EngineError("the engine died"))
    for trace in traces(outcome):
        assert (trace.answer.origin, trace.answer.text) == ("fallback", "12")
        assert "the engine died" in trace.answer.why
    assert len(traces(outcome)) == 2


def test_an_engine_that_fails_before_there_are_candidates_is_an_error() -> None:
    class Broken(Scripted):
        def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
            raise EngineError("dead")
            yield

    with pytest.raises(EngineError, match="dead"):
        answer(parts(Broken(SPLIT, ""), Synthesis(lambda q: "sorter")), ASKED, everyone(3), 0)


def test_an_aggregator_that_only_echoes_falls_back() -> None:
    made = parts(EchoEngine(window=100_000), Synthesis(lambda q: "sorter"))
    origins = {trace.answer.origin for trace in traces(answer(made, ASKED, everyone(3), 0))}
    assert origins == {"fallback"}


def test_a_query_of_which_all_candidates_failed_is_refused_and_the_others_are_answered() -> None:
    class Half(Scripted):
        def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
            for call, made in super().generate(calls):
                failed = Generation("", "error", 10, 0)
                yield call, failed if call.query.text == ASKED[0].text else made

    outcome = answer(parts(Half(SPLIT, "13"), Synthesis(lambda q: "sorter")), ASKED, everyone(3), 0)
    first, second = outcome.results
    assert isinstance(first, Refusal)
    assert (first.query_id, first.code) == ("one", "no_answer")
    assert isinstance(second, Trace)
    assert (second.query_id, second.answer.text) == ("two", "13")
    outcome = answer(parts(Half(ALIKE, "13"), None), ASKED, everyone(3), 0)
    assert [isinstance(result, Refusal) for result in outcome.results] == [True, False]


def test_a_failed_candidate_among_others_only_weighs_nothing() -> None:
    outcome, _, _ = run({"adder": "", "speaker": "12", "sorter": "12"}, "12")
    assert [trace.answer.text for trace in traces(outcome)] == ["12", "12"]


def test_a_finished_synthesis_survives_a_resumed_run_and_a_missing_one_is_asked_again() -> None:
    whole, seen, _ = run()
    resumed, again, engine = run(known=seen.candidates)
    assert resumed.results == whole.results
    assert (again.candidates, engine.prompts, engine.starts) == ([], [], 0)
    partial = [c for c in seen.candidates if c.slot != SLOT or c.query_id == "one"]
    resumed, again, _ = run(known=partial)
    assert [t.answer for t in traces(resumed)] == [t.answer for t in traces(whole)]
    assert [(c.query_id, c.slot) for c in again.candidates] == [("two", SLOT)]


def test_equal_questions_with_equal_candidates_are_synthesised_once() -> None:
    twins = [query("sums of 5 and 7", "one"), query("sums of 5 and 7", "two")]
    outcome, _, engine = run(queries=twins)
    assert len(engine.prompts) == 1
    assert [t.synthesis.shared for t in traces(outcome) if t.synthesis] == [False, True]
    assert [t.answer.completion_tokens for t in traces(outcome)] == [22, 0]


def test_lone_surroscorers_of_an_engine_are_replaced_before_anything_is_kept() -> None:
    outcome, seen, _ = run({"adder": "12\ud800", "speaker": "13", "sorter": "14"}, "13\udfff")
    assert all(c.text.encode() for c in seen.candidates)
    assert {t.answer.text for t in traces(outcome)} == {"13\ufffd"}


def test_a_megabyte_of_a_candidate_does_not_keep_the_others_from_being_read() -> None:
    outcome, _, engine = run({"adder": "<<<" * 350_000, "speaker": "13", "sorter": "14"}, "13")
    assert [t.answer.text for t in traces(outcome)] == ["13", "13"]
    assert all("\n13\n" in prompt and "\n14\n" in prompt and len(prompt) < 20_000 for prompt in engine.prompts)
