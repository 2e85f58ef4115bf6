from __future__ import annotations

import pytest

from symmoe.config import SamplingConfig
from symmoe.evaluation.scoring import as_query, is_right
from symmoe.types import Message, Sampling
from tests.fakes import question


@pytest.mark.parametrize(
    ("scorer", "answer", "said", "right"),
    [
        ("exact", "doce", "Doce.", True),
        ("exact", "doce", "trece", False),
        ("exact", "doce", "The word is doce", False),
        ("exact", '{"name": "Ann"}', '{"name": "Ann"}', True),
        ("exact", '{"name": "Ann"}', '{"name": "Ann", "age": 5}', False),
        ("exact", "3, 12, 40", "3, 12, 40", True),
        ("exact", "3, 12, 40", "3, 124, 0", False),
        ("number", "1000", "It is 1,000.", True),
        ("number", "5", "5.0", True),
        ("number", "5", "-5", False),
        ("number", "5", "none at all", False),
        ("choice", "B", "(B) Paris", True),
        ("choice", "B", "C", False),
        ("choice", "Yes", "yes", True),
        ("choice", "Yes", "No", False),
        ("math", "0.5", r"so \boxed{\frac{1}{2}}", True),
        ("math", "0.5", r"\boxed{\frac{1}{3}}", False),
        ("math", "5", "x = 5", True),
    ],
)
def test_an_answer_is_compared_as_its_scorer_says(scorer: str, answer: str, said: str, right: bool) -> None:
    assert is_right(said, question("?", answer, scorer=scorer)) is right


@pytest.mark.parametrize("scorer", ["exact", "number", "choice", "math"])
def test_saying_nothing_is_never_right(scorer: str) -> None:
    assert not is_right("", question("?", "5", scorer=scorer))
    assert not is_right(" \n", question("?", "5", scorer=scorer))


def test_a_question_is_asked_without_its_answer_or_its_scorer() -> None:
    asked = as_query(question("What?", "SECRET", scorer="choice", ident="7"), SamplingConfig(max_tokens=9, top_p=0.5))
    assert asked.id == "7"
    assert asked.messages == (Message("user", "What?"),)
    assert asked.sampling == Sampling(9, 0.0, 0.5)
    assert asked.kind == "auto"
    assert "SECRET" not in repr(asked)
