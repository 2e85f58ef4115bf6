"""Which pairs of questions are compared, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from symmoe.deployments.bench.pairs import different, near, same
from symmoe.deployments.bench.reuse import COSINES, measure_reuse

from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import mixed_suite
from tests.fakes import ScatteringEmbedder

QUESTIONS = mixed_suite(list(FAMILIES), 6, "test", 3)
WORDINGS = [["What is 34 + 58?", "Calculate 34 + 58.", "Work out the sum 34 + 58."]]


class Flat:
    """An embedder to which all questions are one."""

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.array([[0.6, 0.8]], np.float32), (len(texts), 1))


def test_every_two_wordings_are_a_pair_and_every_two_questions_another() -> None:
    assert len(same([["a", "b", "c"], ["d", "e"]])) == 4
    pairs = different(QUESTIONS)
    assert len(pairs) == 60 * 59 / 2
    assert sum(pair.kind == "family" for pair in pairs) == 10 * 6 * 5 / 2


def test_near_ones_differ_in_one_thing_and_every_kind_is_there() -> None:
    pairs = near(QUESTIONS, 0)
    assert {pair.kind for pair in pairs} == {"number", "name", "word", "order", "turned"}
    assert all(pair.one != pair.other for pair in pairs)
    for pair in pairs:
        one, other = pair.one.split(), pair.other.split()
        changed = sum(a != b for a, b in zip(one, other, strict=False)) if len(one) == len(other) else 99
        assert {"number": changed == 1, "name": changed == 1, "word": changed == 1, "order": changed <= 2}.get(
            pair.kind, True
        ), pair
    assert near(QUESTIONS, 0) == pairs != near(QUESTIONS, 1)


def test_where_the_vectors_say_nothing_the_rules_alone_decide() -> None:
    report = measure_reuse(Flat(), WORDINGS, QUESTIONS, 0)  # type: ignore[arg-type]
    assert report["least_by_cosine_alone"] is None
    for kind, row in report["kinds"].items():
        assert row["by_cosine"] == [1.0] * len(COSINES)
        assert row["with_rules"] == pytest.approx([row["rules"]] * len(COSINES))
        assert kind not in ("number", "turned", "order") or row["rules"] == 0.0
    assert report["kinds"]["same"]["rules"] > 0
    assert report["wordings"] == 3
    assert all(pair["cosine"] == pytest.approx(1.0) for pair in report["nearest_wrong"])


def test_where_the_vectors_have_nothing_in_common_nothing_is_found() -> None:
    report = measure_reuse(ScatteringEmbedder(), WORDINGS, QUESTIONS, 0)
    assert report["kinds"]["other"]["by_cosine"][-1] == 0.0
    assert report["least"] is not None
