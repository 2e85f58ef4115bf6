from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import symmoe.build
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.scoring.heads import Floats
from symmoe.training.rated import CHUNK, OBJECTIVES, Drawing, KeptStates, format_likeness, gather, material, rate
from symmoe.types import Assignment, Call, Generation, Query
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, candidate, query, question
from tests.training.made import Reader, field

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


SORTING = question("Sort: 3, 1, 2", "1, 2, 3")


def rated(*answers: tuple[str, str, int]) -> dict[str, list[float]]:
    """Ratings of (expert, text, slot) by objective."""
    ratings = rate(SORTING, [candidate(expert, text, slot) for expert, text, slot in answers])
    return {name: [float(number) for number in column] for name, column in zip(OBJECTIVES, ratings.T, strict=True)}


def test_every_objective_is_between_0_and_1_or_unknown() -> None:
    ratings = rate(SORTING, [candidate("a", "1, 2, 3"), candidate("b", "no idea, sorry " * 5), candidate("c", "")])
    assert ratings.shape == (3, len(OBJECTIVES))
    assert ((ratings >= 0) & (ratings <= 1) | np.isnan(ratings)).all()


def test_right_answers_are_told_by_the_known_one() -> None:
    assert rated(("a", "1, 2, 3", 0), ("b", "3, 2, 1", 0))["correctness"] == [1.0, 0.0]


def test_other_experts_agreement_counts_their_first_answers_alone() -> None:
    found = rated(("a", "1, 2, 3", 0), ("a", "1, 2, 3", 1), ("b", "1, 2, 3", 0), ("c", "3", 0), ("c", "1, 2, 3", 1))
    assert found["agreement"] == [0.5, 0.5, 0.5, 0.0, 1.0]


def test_stability_is_of_the_same_experts_draws_and_unknown_without_them() -> None:
    found = rated(("a", "1, 2, 3", 0), ("a", "1, 2, 3", 1), ("a", "3", 2), ("b", "3", 0))
    assert found["stability"][:3] == [0.5, 0.5, 0.0]
    assert math.isnan(found["stability"][3])


def test_an_expert_alone_has_no_agreement_to_tell() -> None:
    assert math.isnan(rated(("a", "1, 2, 3", 0))["agreement"][0])


def test_brevity_falls_with_what_is_written_beyond_the_known_answer() -> None:
    assert rated(("a", "1, 2, 3", 0), ("b", "12", 0), ("c", "1, 2, 3" * 4, 0))["brevity"] == [1.0, 1.0, 0.25]


@pytest.mark.parametrize(
    ("text", "wanted", "likeness"),
    [
        ("3, 1", "1, 2, 3", 1.0),
        ('{"a": 1}', '{"b": [2]}', 1.0),
        ('{"a": 1', '{"b": [2]}', 0.0),
        ("XIV", "MCM", 1.0),
        ("fourteen", "XIV", 0.0),
        ("Alfa Bravo", "Zulu", 1.0),
        ("", "", 1.0),
        ("[" * 100_000, "1", 0.0),
    ],
)
def test_formats_are_alike_by_their_kinds_of_tokens(text: str, wanted: str, likeness: float) -> None:
    assert format_likeness(text, wanted) == likeness


def test_the_language_is_told_only_of_texts_of_some_length() -> None:
    spanish = question("How do you say it?", "el perro grande corre por la calle con el gato negro")
    texts = ["el gato negro duerme en la casa de mi abuela", "the black cat is asleep in the house of my aunt", "gato"]
    column = rate(spanish, [candidate("a", text) for text in texts])[:, OBJECTIVES.index("language")]
    assert column[:2].tolist() == [1.0, 0.0]
    assert math.isnan(column[2])


class Lengths:
    """States are lengths; breaks when it is asked for the n-th time."""

    def __init__(self, breaks_at: int = 0) -> None:
        self.rows: list[int] = []
        self._breaks_at = breaks_at

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        if len(self.rows) + 1 == self._breaks_at:
            raise KeyboardInterrupt
        pairs = [(len(q.text), len(text)) for q, row in zip(queries, candidates, strict=True) for text in row]
        self.rows.append(len(pairs))
        states = np.array(pairs, dtype=np.float32)
        return states[:, :1], states[:, 1:]


QUERIES = [query("one"), query("three", "r")]
ROWS = [["x" * n for n in range(1, CHUNK)], ["y", "yy"]]


def test_states_come_in_order_a_chunk_at_a_time(tmp_path: Path) -> None:
    states = Lengths()
    prompts, answers = KeptStates(states, tmp_path, "lengths")(QUERIES, ROWS)
    assert states.rows == [CHUNK, 1]
    assert prompts[:, 0].tolist() == [3.0] * (CHUNK - 1) + [5.0, 5.0]
    assert answers[:, 0].tolist() == [*range(1, CHUNK), 1.0, 2.0]


def test_an_interruption_loses_one_chunk_at_most(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        KeptStates(Lengths(breaks_at=2), tmp_path, "lengths")(QUERIES, ROWS)
    rest = Lengths()
    again = KeptStates(rest, tmp_path, "lengths")(QUERIES, ROWS)
    assert rest.rows == [1]
    whole = KeptStates(Lengths(), tmp_path / "other", "lengths")(QUERIES, ROWS)
    assert all((a == b).all() for a, b in zip(again, whole, strict=True))


def test_what_another_model_read_is_not_taken(tmp_path: Path) -> None:
    KeptStates(Lengths(), tmp_path, "lengths")(QUERIES, ROWS)
    other = Lengths()
    KeptStates(other, tmp_path, "others")(QUERIES, ROWS)
    assert sum(other.rows) == CHUNK + 1


def test_equal_texts_to_one_question_are_one_answer_and_every_candidate_knows_its_place() -> None:
    asked = field(40)
    known = material(asked, Reader())
    texts = [list(dict.fromkeys(c.text for c in row)) for row in asked.candidates]
    flat = [text for row in texts for text in row]
    assert len(known.right) == len(flat) == len(known.rated.answers)
    for row in asked.candidates:
        assert [flat[known.of[c.assignment]] for c in row] == [c.text for c in row]
    assert known.asked == 40
    assert known.right.tolist() == [text.startswith("yes") for text in flat]
    assert known.question.tolist() == [n for n, row in enumerate(texts) for _ in row]


def test_ratings_of_equal_texts_are_averaged_and_unknown_ones_skipped() -> None:
    asked = field(40)
    first = (candidate("a", "no 1"), candidate("a", "no 1", slot=1), candidate("b", "no 1"), candidate("c", "yes 0"))
    asked = replace(asked, candidates=(first, *asked.candidates[1:]))
    known = material(asked, Reader())
    # a's own draw agrees with it; b was not drawn again, so its stability is unknown
    assert "stability" not in known.objectives
    agreement = known.rated.ratings[known.of[Assignment("q", "a", 0)], known.objectives.index("agreement")]
    assert agreement == np.float32(0.5)


def test_objectives_on_which_little_or_nothing_differs_are_left_out() -> None:
    known = material(field(40), Reader())
    assert "correctness" in known.objectives
    assert {"stability", "language"}.isdisjoint(known.objectives)
    assert set(known.objectives) <= set(OBJECTIVES)
    assert known.rated.ratings.shape == (len(known.right), len(known.objectives))


def test_empty_and_unreadable_answers_stand_nowhere() -> None:
    class Blind(Reader):
        def _state(self, prompt: str, text: str) -> list[float]:
            return [float("nan")] * 6 if text == "unreadable" else super()._state(prompt, text)

    asked = field(40)
    first = (candidate("a", " "), candidate("b", "unreadable"), candidate("c", "yes 0"))
    known = material(replace(asked, candidates=(first, *asked.candidates[1:])), Blind())
    assert {a for a in known.of if a.query_id == "q"} == {Assignment("q", "c", 0)}
    assert np.isfinite(known.rated.answers).all()


def test_pairs_are_right_and_wrong_answers_to_one_question_and_not_too_many() -> None:
    known = material(field(60), Reader(blur=0.0))
    some = np.arange(60) < 30
    pairs = known.pairs(some, 1, seed=3)
    telling = {n for n in range(30) if len({bool(right) for right in known.right[known.question == n]}) == 2}
    assert len(pairs.chosen) == len(telling)
    assert (pairs.chosen[:, 0] > pairs.rejected[:, 0]).all()
    again, other = known.pairs(some, 1, seed=3), known.pairs(some, 1, seed=4)
    assert (again.rejected == pairs.rejected).all()
    assert (other.rejected != pairs.rejected).any()
    assert len(known.pairs(np.zeros(60, dtype=np.bool_), 1, 0).chosen) == 0
