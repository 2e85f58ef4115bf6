from __future__ import annotations

import math

import numpy as np
import pytest

from symmoe.evaluation.gating.ratings import OBJECTIVES, format_likeness, rate
from tests.fakes import candidate, question

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
