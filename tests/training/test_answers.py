from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import symmoe.build
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.training.answers import Drawing, gather
from symmoe.types import Call, Generation
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question

QUESTIONS = [question("sums 1", "adder: sums 1", ident="1"), question("spanish 2", "speaker: spanish 2", ident="2")]
DRAWING = Drawing(draws=2, experts=1, temperature=0.7)


@pytest.fixture
def assembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assembly:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    return Assembly(read_pool(str(echo_pool(tmp_path / "pool"))))


def test_every_expert_answers_once_and_the_best_are_drawn_again(assembly: Assembly) -> None:
    field = gather(assembly, QUESTIONS, DRAWING)
    for row, best in zip(field.candidates, ("adder", "speaker"), strict=True):
        assert [(c.expert, c.slot) for c in row] == [
            ("adder", 0),
            ("speaker", 0),
            ("sorter", 0),
            (best, 1),
            (best, 2),
        ]
    assert field.right() == [[True, False, False, True, True], [False, True, False, True, True]]
    assert [next(iter(r.shares)) for r in field.recruitments] == ["adder", "speaker"]


class Counting(EchoEngine):
    """Counts the calls that it answers."""

    answered = 0

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        self.answered += len(calls)
        return super().generate(calls)


@pytest.fixture
def engine(assembly: Assembly) -> Counting:
    engine = assembly.__dict__["engine"] = Counting()
    return engine


def test_what_was_written_is_not_asked_for_again(assembly: Assembly, engine: Counting, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "outputs.jsonl"
    first = gather(assembly, QUESTIONS, DRAWING, path)
    assert engine.answered == 10
    assert gather(assembly, QUESTIONS, DRAWING, path) == first
    assert engine.answered == 10


@pytest.mark.parametrize(("changed", "more"), [({"temperature": 0.9}, 4), ({"seed": 1}, 4), ({"draws": 3}, 2)])
def test_only_answers_under_the_same_sampling_are_taken(
    assembly: Assembly, engine: Counting, tmp_path: Path, changed: dict[str, float], more: int
) -> None:
    path, drawing = tmp_path / "outputs.jsonl", replace(DRAWING, **changed)  # type: ignore[arg-type]
    gather(assembly, QUESTIONS, DRAWING, path)
    gather(assembly, QUESTIONS, drawing, path)
    assert engine.answered == 10 + more


def test_answers_to_other_words_are_not_taken(assembly: Assembly, engine: Counting, tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    gather(assembly, QUESTIONS, DRAWING, path)
    gather(assembly, [QUESTIONS[0], replace(QUESTIONS[1], question="spanish 3")], DRAWING, path)
    assert engine.answered == 10 + 5
