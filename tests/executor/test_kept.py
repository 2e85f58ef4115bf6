from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from symmoe.engines.echo import EchoEngine
from symmoe.errors import InputError
from symmoe.executor import KeptAnswers
from symmoe.protocols import Executor
from symmoe.types import Assignment, Call, Candidate, Generation, Load, Plan, Query, Step
from tests.executor.test_in_process import PLAN, call, executor
from tests.fakes import query


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
