from __future__ import annotations

from dataclasses import replace

from symmoe.engines.echo import EchoEngine
from symmoe.executor import InProcessExecutor
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.types import Assignment, Call, Candidate, Load, Plan, Refusal, Step
from tests.fakes import query


def executor(engine: EchoEngine) -> InProcessExecutor:
    return InProcessExecutor(engine, LaneLoader(engine, lambda expert: ExpertWeights("base", expert)))


def call(expert: str, text: str, *served: tuple[str, int]) -> Call:
    return Call(expert, query(text, served[0][0]), tuple(Assignment(ident, expert, slot) for ident, slot in served))


PLAN = Plan(
    (
        Step("a", (call("a", "one two", ("1", 0), ("1", 1), ("3", 0)), call("a", "two", ("2", 0)))),
        Step("b", (call("b", "one two", ("1", 0)),)),
    )
)


def test_each_step_is_loaded_once_before_its_candidates_come() -> None:
    events = list(executor(EchoEngine()).run(PLAN))
    told = [event.expert if isinstance(event, Load) else event[0].expert + "!" for event in events]
    assert told == ["a", "a!", "a!", "b", "b!"]


def test_every_assignment_gets_the_words_of_its_own_expert_and_the_lane_by_which_it_was_ready() -> None:
    events = list(executor(EchoEngine()).run(PLAN))
    candidates = [c for event in events if isinstance(event, list) for c in event]
    assert {(c.query_id, c.expert, c.slot): c.text for c in candidates} == {
        ("1", "a", 0): "a: one two",
        ("1", "a", 1): "a: one two",
        ("3", "a", 0): "a: one two",
        ("2", "a", 0): "a: two",
        ("1", "b", 0): "b: one two",
    }
    assert len(candidates) == 5
    assert {c.expert: c.lane for c in candidates} == {"a": "rebuild", "b": "merged"}


def test_of_the_assignments_that_share_a_call_the_first_bears_the_tokens() -> None:
    _, _, shared, *_ = executor(EchoEngine()).run(PLAN)
    first = Candidate("1", "a", 0, "a: one two", "stop", 2, 3, "rebuild")
    assert shared == [first, replace(first, slot=1, shared=True), replace(first, query_id="3", shared=True)]


def test_nothing_is_loaded_before_the_first_event_is_asked_for() -> None:
    engine = EchoEngine()
    run = executor(engine).run(PLAN)
    assert engine.starts == 0
    next(run)
    assert engine.starts == 1


def test_a_plan_without_steps_does_nothing() -> None:
    assert list(executor(EchoEngine()).run(Plan(()))) == []


def test_refusals_are_those_of_the_engine_each_at_its_place() -> None:
    long = query("word " * 30, "2")
    refused = executor(EchoEngine(window=20)).refuse([query("short", "1"), long])
    assert refused[0] is None
    assert isinstance(refused[1], Refusal)
    assert (refused[1].query_id, refused[1].code) == ("2", "context_length_exceeded")


def test_closing_frees_the_engine_and_may_be_done_twice() -> None:
    engine = EchoEngine()
    runner = executor(engine)
    list(runner.run(PLAN))
    runner.close()
    runner.close()
    assert engine.model is None
