from __future__ import annotations

from dataclasses import replace

import numpy as np

from symmoe.evaluation.gating.field import assignment_of
from symmoe.evaluation.gating.material import material
from symmoe.evaluation.gating.ratings import OBJECTIVES
from symmoe.types import Assignment
from tests.evaluation.gating.made import Reader, field
from tests.fakes import candidate


def test_equal_texts_to_one_question_are_one_answer_and_every_candidate_knows_its_place() -> None:
    asked = field(40)
    known = material(asked, Reader())
    texts = [list(dict.fromkeys(c.text for c in row)) for row in asked.candidates]
    flat = [text for row in texts for text in row]
    assert len(known.right) == len(flat) == len(known.rated.answers)
    for row in asked.candidates:
        assert [flat[known.of[assignment_of(c)]] for c in row] == [c.text for c in row]
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
