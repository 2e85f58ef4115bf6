"""How likely answers are right, by who gave them and by what they wrote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.reading import read
from symmoe.aggregation.verifier import OF_TEXT, Asked, VerifierScorer, Verifying, features, names, signs_of
from symmoe.aggregation.vote import WeightedVote
from symmoe.scoring.weighing import RecordScorer
from symmoe.types import Assignment, Candidate, Recruitment, Trees
from tests.fakes import candidate, query

ASKED = query("A car goes 12 km in 20 minutes. How many km is that in an hour?\nA. 24\nB. 36\nC. 240\nD. none of these")
EXPERTS = ("a", "b", "c")
RECRUITED = Recruitment("q", tuple(Assignment("q", e, 0) for e in EXPERTS), {}, {"a": 0.6, "b": 0.5, "c": 0.4})
SAID = [
    candidate("a", "12 km in 20 minutes is 12 * 3 = 36. The answer is (B)."),
    candidate("b", "20 * 12 = 240. The answer is (C)."),
    candidate("c", "It might be 36, the closest option. The answer is (B)."),
]


def sign(name: str, text: str, answer: str) -> float:
    return float(signs_of(Asked.of(ASKED.text), text, answer)[OF_TEXT.index(name)])


def told(column: str, candidates: list[Candidate] = SAID) -> list[float]:
    """A column of what is known of each distinct answer, in the order in which they were first given."""
    rows = features(ASKED, candidates, RECRUITED, read(ASKED, candidates), EXPERTS)
    return [float(row) for row in rows[:, names(EXPERTS).index(column)]]


def stump(column: str, threshold: float, low: float, high: float, unknown_left: int = 1) -> Trees:
    """One split: log-odds `low` up to the threshold of a column, `high` above."""
    feature = names(EXPERTS).index(column)
    return Trees(
        EXPERTS,
        0.0,
        (0,),
        (feature, -1, -1),
        (threshold, 0, 0),
        (unknown_left, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (0, low, high),
    )


def test_a_text_shows_whether_it_works_out_the_option_that_it_chooses() -> None:
    worked, not_worked = "12 * 3 = 36. The answer is (B).", "12 * 3 = 36. The answer is (C)."
    assert (sign("works out its option", worked, "B"), sign("works out another", worked, "B")) == (1, 0)
    assert (sign("works out its option", not_worked, "C"), sign("works out another", not_worked, "C")) == (0, 1)
    assert sign("mentions its number", "Not 36 but 24. The answer is (B).", "B") == 1
    assert np.isnan(sign("works out its option", worked, "no letter"))


def test_a_text_shows_how_it_ends_hedges_and_repeats_itself() -> None:
    assert sign("ends with its letter", "So the answer is (B).", "B") == 1
    assert sign("ends with its letter", "The answer is (B). Question: what", "B") == 0
    assert sign("hedges", "This might be the closest.", "B") == 2
    once = " ".join(f"step {n}" for n in range(20))
    assert sign("repeats", once, "B") < 0.1 < 0.8 < sign("repeats", "one two three four " * 20, "B")


def test_an_answer_is_known_by_its_givers_and_by_who_gave_another() -> None:
    assert told("givers") == [2, 1]
    assert (told("a"), told("b")) == ([1, -1], [-1, 1])
    assert told("best giver") == [0.6, 0.5]
    assert told("lead")[0] == pytest.approx(-told("lead")[1])
    assert told("rivals: hedges") == [0, 1]


def test_an_option_is_known_by_how_it_looks_among_the_others() -> None:
    assert told("option: larger than") == [0.25, 0.5]
    free = query("How many?")
    rows = features(free, SAID[:1], RECRUITED, read(free, SAID[:1]), EXPERTS)
    assert np.isnan(rows[0, names(EXPERTS).index("option: larger than")])


def test_weights_of_all_who_give_an_answer_add_up_to_how_likely_it_is_right() -> None:
    verifying = Verifying(stump("givers", 1.5, -1.0, 2.0))
    candidates = [*SAID[:2], candidate("c", "The answer is (B)."), candidate("d", "")]
    weights = [verdict.weight for verdict in verifying.weigh(ASKED, candidates, RECRUITED)]
    likely = 1 / (1 + np.exp(-2.0))
    assert weights == pytest.approx([likely / 2, 1 / (1 + np.exp(1.0)), likely / 2, 0])


def test_one_who_worked_it_out_can_outweigh_two_who_did_not() -> None:
    verifying = Verifying(stump("best giver: works out its option", 0.5, -2.0, 2.0))
    guessed = [candidate("a", "The answer is (A)."), candidate("c", "The answer is (A)."), SAID[0]]
    scorer = VerifierScorer(verifying, RecordScorer())
    (verdicts,) = scorer.weigh([ASKED], [guessed], [RECRUITED])
    assert WeightedVote().aggregate(ASKED, guessed, verdicts).votes[0].answer == "B"
    (plain,) = RecordScorer().weigh([ASKED], [guessed], [RECRUITED])
    assert WeightedVote().aggregate(ASKED, guessed, plain).votes[0].answer == "A"


def test_where_no_accuracy_is_known_the_other_scorer_decides() -> None:
    unknown = Recruitment("q", RECRUITED.assignments, {"a": 0.7, "b": 0.2, "c": 0.1})
    scorer = VerifierScorer(Verifying(stump("givers", 1.5, -1.0, 2.0)), RecordScorer())
    assert scorer.weigh([ASKED], [SAID], [unknown]) == RecordScorer().weigh([ASKED], [SAID], [unknown])


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_question_and_any_answer_can_be_read(question: str, text: str) -> None:
    asked, said = query(question), [candidate("a", text)]
    readings = [reading for reading in read(asked, said) if reading.answer]
    if readings:
        rows = features(asked, said, RECRUITED, readings, EXPERTS)
        assert rows.shape == (1, len(names(EXPERTS)))
        assert not np.isinf(rows).any()
