from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import symmoe.build
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.pipeline import Watch
from symmoe.training.answers import Drawing, gather
from symmoe.types import Candidate
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question

QUESTIONS = [question("sums 1", "adder: sums 1", ident="1"), question("spanish 2", "speaker: spanish 2", ident="2")]
DRAWING = Drawing(draws=2, experts=1, temperature=0.7)


@pytest.fixture
def assembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assembly:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    return Assembly(read_pool(str(echo_pool(tmp_path / "pool"))))


class Counting:
    """A watch that counts the candidates that were generated."""

    def __init__(self, most: int = 10**6) -> None:
        self.seen: list[Candidate] = []
        self._most = most
        self.watch = Watch(candidates=self._take)

    def _take(self, candidates: object) -> None:
        self.seen += candidates  # type: ignore[arg-type]
        if len(self.seen) >= self._most:
            raise KeyboardInterrupt


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


def test_what_was_written_is_not_asked_for_again(assembly: Assembly, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "outputs.jsonl"
    first = gather(assembly, QUESTIONS, DRAWING, path)
    again = Counting()
    assert gather(assembly, QUESTIONS, DRAWING, path, again.watch) == first
    assert again.seen == []


def test_an_interruption_loses_nothing_that_was_written(assembly: Assembly, tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        gather(assembly, QUESTIONS, DRAWING, path, Counting(4).watch)
    kept = path.read_text(encoding="utf-8")
    path.write_text(kept[: len(kept) - 20], encoding="utf-8")  # a kill cuts the last line
    rest = Counting()
    field = gather(assembly, QUESTIONS, DRAWING, path, rest.watch)
    assert len(rest.seen) == 10 - 3
    whole = gather(assembly, QUESTIONS, DRAWING)
    assert [[(c.expert, c.slot, c.text) for c in row] for row in field.candidates] == [
        [(c.expert, c.slot, c.text) for c in row] for row in whole.candidates
    ]


@pytest.mark.parametrize("changed", [{"temperature": 0.9}, {"seed": 1}, {"draws": 3}])
def test_answers_under_other_sampling_are_not_taken(
    assembly: Assembly, tmp_path: Path, changed: dict[str, float]
) -> None:
    path, drawing = tmp_path / "outputs.jsonl", replace(DRAWING, **changed)  # type: ignore[arg-type]
    gather(assembly, QUESTIONS, DRAWING, path)
    again = Counting()
    field = gather(assembly, QUESTIONS, drawing, path, again.watch)
    assert len(again.seen) == sum(map(len, field.candidates))


def test_answers_to_other_questions_are_not_taken(assembly: Assembly, tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    gather(assembly, QUESTIONS, DRAWING, path)
    changed = [QUESTIONS[0], replace(QUESTIONS[1], question="spanish 3")]
    again = Counting()
    gather(assembly, changed, DRAWING, path, again.watch)
    assert len(again.seen) == 10
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]).keys() == {"key"}
