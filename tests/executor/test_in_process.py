from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError, EngineLostError, InputError
from symmoe.executor import InProcessExecutor, KeptAnswers
from symmoe.loading.images import NamedImages
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.protocols import Executor
from symmoe.types import Assignment, Call, Candidate, Generation, Load, Plan, Query, Refusal, Step
from tests.fakes import query


def executor(engine: EchoEngine) -> InProcessExecutor:
    return InProcessExecutor(engine, LaneLoader(engine, lambda expert: ExpertWeights("base", expert), NamedImages()))


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


class RecordingLoader(LaneLoader):
    """Keeps what it was asked for."""

    def __init__(self, engine: EchoEngine) -> None:
        super().__init__(engine, lambda expert: ExpertWeights("base", expert), NamedImages())
        self.asked: list[str] = []

    def ready(self, expert: str) -> Load:
        self.asked.append(f"ready {expert}")
        return super().ready(expert)

    def expect(self, experts: Sequence[str]) -> None:
        self.asked.append(f"expect {' '.join(experts)}".strip())
        super().expect(experts)


def test_while_an_expert_generates_the_loader_knows_which_come_next() -> None:
    engine = EchoEngine()
    loader = RecordingLoader(engine)
    plan = Plan(tuple(Step(name, (call(name, "hi", ("1", 0)),)) for name in "abc"))
    for event in InProcessExecutor(engine, loader).run(plan):
        if not isinstance(event, Load):
            loader.asked.append(f"answer {event[0].expert}")
    assert loader.asked == [
        "ready a", "expect b c", "answer a", "ready b", "expect c", "answer b", "ready c", "expect", "answer c",
    ]  # fmt: skip


def test_of_a_plan_for_many_workers_each_expert_is_loaded_once() -> None:
    first, second, third = call("a", "1", ("1", 0)), call("b", "2", ("2", 0)), call("a", "3", ("3", 0))
    plan = Plan((Step("a", (first,), 0), Step("c", (), 0), Step("b", (second,), 1), Step("a", (third,), 1)))
    events = list(executor(EchoEngine()).run(plan))
    assert [event.expert for event in events if isinstance(event, Load)] == ["a", "b"]
    assert {c.text for event in events if isinstance(event, list) for c in event} == {"a: 1", "b: 2", "a: 3"}


def test_nothing_is_loaded_before_the_first_event_is_asked_for() -> None:
    engine = EchoEngine()
    run = executor(engine).run(PLAN)
    assert engine.started == 0
    next(run)
    assert engine.started == 1


def test_a_plan_without_steps_does_nothing() -> None:
    assert list(executor(EchoEngine()).run(Plan(()))) == []


def test_refusals_are_those_of_the_engine_each_at_its_place() -> None:
    long = query("word " * 30, "2")
    refused = executor(EchoEngine(window=20)).refuse([query("short", "1"), long], "adder")
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


class DyingEngine(EchoEngine):
    """Is lost at the first call in which `die` stands, `deaths` times, and so often while it starts."""

    def __init__(self, deaths: int = 0, deaths_in_start: int = 0) -> None:
        super().__init__()
        self.deaths, self.deaths_in_start, self.asked = deaths, deaths_in_start, list[str]()

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        if self.deaths_in_start > 0:
            self.deaths_in_start -= 1
            raise EngineLostError("died while starting")
        super().start(model, tags)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for given, generation in super().generate(calls):
            self.asked.append(given.query.text)
            if "die" in given.query.text and self.deaths > 0:
                self.deaths -= 1
                self.close()
                raise EngineLostError("died")
            yield given, generation


def ran(engine: EchoEngine) -> tuple[list[Load], list[Candidate]]:
    calls = (call("a", "one", ("1", 0)), call("a", "die", ("2", 0)), call("a", "three", ("3", 0)))
    events = list(executor(engine).run(Plan((Step("a", calls), Step("b", (call("b", "four", ("1", 0)),))))))
    loads = [event for event in events if isinstance(event, Load)]
    return loads, [c for event in events if isinstance(event, list) for c in event]


def test_when_an_engine_dies_only_the_calls_that_it_had_not_answered_are_repeated() -> None:
    engine = DyingEngine(deaths=1)
    loads, found = ran(engine)
    assert [(load.expert, load.lane) for load in loads] == [("a", "rebuild"), ("a", "rebuild"), ("b", "merged")]
    assert sorted(c.text for c in found) == ["a: die", "a: one", "a: three", "b: four"]
    assert engine.asked == ["three", "die", "die", "one", "four"]


def test_a_call_that_kills_every_engine_is_given_up_and_the_others_are_answered() -> None:
    loads, found = ran(DyingEngine(deaths=99))
    assert {(c.query_id, c.expert): (c.text, c.finish_reason) for c in found} == {
        ("1", "a"): ("a: one", "stop"),
        ("2", "a"): ("", "error"),
        ("3", "a"): ("a: three", "stop"),
        ("1", "b"): ("b: four", "stop"),
    }
    assert len(found) == 4
    assert len(loads) < 7


def test_an_expert_with_which_no_engine_becomes_ready_ends_the_run() -> None:
    assert len(ran(DyingEngine(deaths_in_start=2))[1]) == 4
    with pytest.raises(EngineError, match="'a' cannot be loaded"):
        ran(DyingEngine(deaths_in_start=3))


class Counting:
    """Runs plans on echoes and keeps which calls it was given; with `most` it is interrupted after so many answers."""

    def __init__(self, most: int = 10**6) -> None:
        self.calls: list[Call] = []
        self._inner, self._most = executor(EchoEngine()), most
        self.refuse = self._inner.refuse

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        self.calls += [call for step in plan.steps for call in step.calls]
        for event in self._inner.run(plan):
            if isinstance(event, list):
                if not self._most:
                    raise KeyboardInterrupt
                self._most -= 1
            yield event


def kept(inner: Executor, path: Path | None = None, weights: str = "w") -> KeptAnswers:
    return KeptAnswers(inner, lambda expert: f"{weights} of {expert}", path)


def said(executor: Executor, plan: Plan = PLAN) -> set[Candidate]:
    return {candidate for event in executor.run(plan) if isinstance(event, list) for candidate in event}


def test_what_comes_out_is_what_the_executor_gives_and_comes_out_again_without_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    again = Counting()
    assert said(executor(EchoEngine())) == said(kept(Counting(), path)) == said(kept(again, path))
    assert again.calls == []


def test_without_a_file_answers_are_kept_as_long_as_it_lives() -> None:
    inner = Counting()
    both = kept(inner)
    assert said(both) == said(both)
    assert len(inner.calls) == 3


def test_a_run_that_was_stopped_goes_on_where_it_stood_also_behind_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        said(kept(Counting(most=2), path))
    path.write_bytes(path.read_bytes()[:-20])  # a kill cuts the last line
    rest, third = Counting(), Counting()
    assert said(kept(rest, path)) == said(executor(EchoEngine()))
    assert len(rest.calls) == 3 - 1
    said(kept(third, path))
    assert third.calls == []


def test_equal_calls_are_known_again_whoever_asks(tmp_path: Path) -> None:
    inner = Counting()
    both = kept(inner)
    said(both)
    other = Plan((Step("a", (call("a", "two", ("9", 4), ("9", 5)),)),))
    first, second = sorted(said(both, other), key=lambda candidate: candidate.slot)
    assert (first.assignment, first.text, first.shared) == (Assignment("9", "a", 4), "a: two", False)
    assert (second.assignment, second.text, second.shared) == (Assignment("9", "a", 5), "a: two", True)
    assert len(inner.calls) == 3


@pytest.mark.parametrize(
    "asked",
    [query("other words", "2"), query("two", "2", temperature=0.7, seed=1), query("two", "2", temperature=0.7, seed=2)],
)
def test_other_words_sampling_and_seeds_are_other_calls(asked: Query) -> None:
    inner = Counting()
    both = kept(inner)
    said(both)
    said(both, Plan((Step("a", (Call("a", asked, (Assignment("2", "a", 0),)),)),)))
    assert len(inner.calls) == 4


def test_answers_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    path, other = tmp_path / "answers.jsonl", Counting()
    said(kept(Counting(), path))
    said(kept(other, path, weights="others"))
    assert len(other.calls) == 3


def test_the_seconds_of_a_step_are_those_of_its_candidates_and_are_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = kept(Counting(), path)
    own = [candidate for candidate in said(first) if not candidate.shared]
    again = kept(Counting(), path)
    said(again)
    assert all(first.seconds(candidate) > 0 for candidate in own)
    assert [again.seconds(c) for c in own] == [first.seconds(c) for c in own]


class Refusing(EchoEngine):
    """Cannot answer one of the texts."""

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for asked, generation in super().generate(calls):
            yield asked, Generation("", "error", 1, 0) if asked.query.text == "two" else generation


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    path, rest = tmp_path / "answers.jsonl", Counting()
    said(kept(executor(Refusing()), path))
    said(kept(rest, path))
    assert [call.query.text for call in rest.calls] == ["two"]


def test_a_file_of_something_else_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "k"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.jsonl: line 1 is no kept answer"):
        kept(Counting(), path)
