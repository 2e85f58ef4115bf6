from __future__ import annotations

import numpy as np

from symmoe.scoring.embedded import EmbeddedStates
from tests.fakes import WordEmbedder, query


def test_a_row_for_every_answer_of_the_answer_alone_and_with_its_question() -> None:
    embedder = WordEmbedder("one", "two", "three")
    prompts, answers = EmbeddedStates(embedder)([query("one"), query("two", "r")], [["two", "three"], ["three"]])
    np.testing.assert_allclose(prompts, [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(answers[:, :3], [[0, 1, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(answers[0, 3:], [2**-0.5, 2**-0.5, 0])
    np.testing.assert_allclose(answers[2, 3:], [0, 2**-0.5, 2**-0.5], rtol=1e-6)


def test_each_distinct_text_is_embedded_once() -> None:
    embedder = WordEmbedder("one", "two")
    EmbeddedStates(embedder)([query("one"), query("one", "r")], [["two", "two"], ["two", "one"]])
    assert sorted(embedder.asked) == sorted({"one", "two", "one\ntwo", "one\none"})
