from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from symmoe.aggregation.reading import SemanticClusters, disagree, is_prose
from symmoe.aggregation.vote import WeightedVote
from symmoe.types import Message, Query, Sampling, Verdict
from tests.fakes import candidate

CANBERRA = "The capital of Australia is Canberra, which was founded as a compromise."
ALSO_CANBERRA = "Canberra is the capital city of Australia; it had been chosen as a compromise."
PAIRS_THAT_DISAGREE = [
    (CANBERRA, "The capital of Australia is Sydney, which was founded as a colony."),
    ("Interest rates rise, so bond prices fall.", "Interest rates fall, so bond prices rise."),
    ("Take the drug before meals in the morning.", "Take the drug after meals in the evening."),
    ("The bridge is 120 metres long and was built of steel.", "The bridge is 130 metres long and was built of steel."),
    ("A spider walks on eight legs and spins a web of silk.", "A spider walks on six legs and spins a web of silk."),
    ("The treaty was signed by both of the parties to it.", "The treaty was not signed by both of the parties to it."),
    ("Iron rusts because it reacts with oxygen.", "Iron rusts because it reacts with nitrogen."),
    ("It doesn't hold for every prime that is greater.", "It does hold for every prime that is greater."),
    ("first the apple then the pear then the plum", "first the plum then the pear then the apple"),
]


class Everywhere:
    """Finds every text equal to every other, and counts how often it was asked."""

    asked = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += 1
        return np.ones((len(texts), 1), dtype=np.float32)


class Placed:
    """Places texts at given angles, in degrees."""

    def __init__(self, angles: dict[str, float]) -> None:
        self._angles = angles

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([self._angles[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize(("first", "second"), PAIRS_THAT_DISAGREE)
def test_texts_that_disagree_never_merge_however_near_an_embedder_finds_them(first: str, second: str) -> None:
    assert disagree(first, second)
    assert disagree(second, first)
    assert SemanticClusters(Everywhere(), 0.0).cluster([first, second]) == [[0], [1]]


_WORD = st.sampled_from("rates Paris mountain cat the of John's it's never rises".split())


@given(st.lists(_WORD, min_size=6), st.lists(_WORD))
def test_one_word_in_anothers_place_is_a_disagreement_wherever_it_stands(before: list[str], behind: list[str]) -> None:
    first, second = (" ".join((*before, word, *behind)) for word in ("copper", "silver"))
    assert disagree(first, second)
    assert disagree(second, first)


def test_texts_that_say_the_same_in_other_words_merge() -> None:
    assert not disagree(CANBERRA, ALSO_CANBERRA)
    assert SemanticClusters(Everywhere()).cluster([CANBERRA, ALSO_CANBERRA]) == [[0, 1]]


def test_a_text_joins_only_a_group_to_all_of_which_it_is_near() -> None:
    told = [
        "What the author wants is to be forgiven by her father in the end",
        "She hopes, at last, that her parent lets go of all his anger",
        "Reconciliation between child and parent drives every chapter of this book",
    ]
    near = SemanticClusters(Placed(dict(zip(told, (0, 30, 60), strict=True))), similarity=0.8)
    assert near.cluster(told) == [[0, 1], [2]]


@pytest.mark.parametrize(
    "text",
    [
        "too short",
        "word " * 181,
        "a, b, c, d, e, f, g, h, i",
        "```\nx = 1 and so on and on and on\n```",
        "{1 2 3 4 5 6 7 8}",
    ],
)
def test_short_and_very_long_texts_lists_and_code_are_not_prose_and_no_embedder_is_asked(text: str) -> None:
    embedder = Everywhere()
    assert not is_prose(text)
    assert SemanticClusters(embedder).cluster([text, text + " too"]) == [[0], [1]]
    assert embedder.asked == 0


@given(
    st.lists(st.sampled_from([CANBERRA, ALSO_CANBERRA, "short", *(p for pair in PAIRS_THAT_DISAGREE for p in pair)]))
)
def test_every_text_is_in_one_group_and_no_group_holds_a_disagreement(texts: list[str]) -> None:
    groups = SemanticClusters(Everywhere()).cluster(texts)
    assert sorted(place for group in groups for place in group) == list(range(len(texts)))
    for group in groups:
        assert not any(disagree(texts[a], texts[b]) for a in group for b in group if a < b)


def test_a_vote_with_clusters_adds_up_what_is_said_in_other_words_and_keeps_every_member() -> None:
    rows = [("a", "Sydney is the largest city, so it is the capital too.", 0.4), ("b", CANBERRA, 0.3)]
    rows.append(("c", ALSO_CANBERRA, 0.3))
    asked = Query("q", (Message("user", "Which city is Australia's capital, and why?"),), Sampling(64), kind="text")
    candidates, verdicts = [candidate(e, t) for e, t, _ in rows], [Verdict(e, 0, w) for e, _, w in rows]
    assert WeightedVote().aggregate(asked, candidates, verdicts).expert == "a"
    found = WeightedVote(SemanticClusters(Everywhere())).aggregate(asked, candidates, verdicts)
    assert found.expert == "b"
    assert [vote.members for vote in found.votes] == [(1, 2), (0,)]
    assert [vote.share for vote in found.votes] == [0.6, 0.4]


def test_numbers_and_choices_are_never_clustered() -> None:
    embedder = Everywhere()
    text = "After a long and careful calculation I find the number"
    candidates = [candidate("a", f"{text} 7"), candidate("b", f"{text} 8")]
    asked = Query("q", (Message("user", "How many?"),), Sampling(64), kind="number")
    found = WeightedVote(SemanticClusters(embedder)).aggregate(asked, candidates, [Verdict(e, 0, 1.0) for e in "ab"])
    assert [vote.answer for vote in found.votes] == ["7", "8"]
    assert embedder.asked == 0


@pytest.mark.parametrize("filler", ["=", "~", "|---"])
def test_answers_that_differ_in_a_line_without_end_are_told_apart_at_once(filler: str) -> None:
    around = "the answer to this question is as follows here now"
    texts = [f"{around} {filler * (60_000 // len(filler) - n)} {around}" for n in range(16)]
    began = time.process_time()
    assert SemanticClusters(Everywhere(), 0.0).cluster(texts) == [[n] for n in range(16)]
    assert time.process_time() - began < 0.5
