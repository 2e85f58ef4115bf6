from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.scoring.batching import batches, padded, read_in_batches
from symmoe.scoring.conversation import Conversation, ConversationTokenizer
from symmoe.types import Reward
from tests.fakes import query
from tests.scoring.tiny import tokenizer


@given(lengths=st.lists(st.integers(1, 300), max_size=40), budget=st.integers(0, 700))
def test_every_length_is_in_one_batch_that_keeps_the_budget_when_padded(lengths: list[int], budget: int) -> None:
    made = batches(lengths, budget)
    assert sorted(place for batch in made for place in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget
    longest_first = [lengths[place] for batch in made for place in batch]
    assert longest_first == sorted(lengths, reverse=True)


class Reader:
    """Scores a conversation by its length, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[Conversation]] = []

    def __call__(self, conversations: Sequence[Conversation]) -> list[Reward]:
        self.shown.append(list(conversations))
        return [Reward(float(len(c.ids))) for c in conversations]


def test_rewards_come_back_in_the_order_of_the_candidates() -> None:
    tokens, reader = ConversationTokenizer(tokenizer(), 400), Reader()
    candidates = [["a" * 9, "", "a"], [], ["a" * 30, "a" * 2]]
    rewards = read_in_batches(tokens, [query("one"), query("two"), query("three")], candidates, reader, 150)
    assert [[r.score is None for r in row] for row in rewards] == [[False, True, False], [], [False, False]]
    fixed = [rewards[0][2].score or 0.0, (rewards[2][1].score or 0.0) - 1]
    assert [r.score for r in rewards[0] if r.score] == [fixed[0] + 8, fixed[0]]
    assert [r.score for r in rewards[2]] == [fixed[1] + 29, fixed[1] + 1]
    assert len(reader.shown) > 1


def test_a_conversation_that_comes_twice_is_read_once() -> None:
    tokens, reader = ConversationTokenizer(tokenizer(), 400), Reader()
    rewards = read_in_batches(tokens, [query("one"), query("one", "r")], [["yes", "no", "yes"], ["yes"]], reader, 4000)
    assert [len(batch) for batch in reader.shown] == [2]
    assert rewards[0][0] == rewards[0][2] == rewards[1][0]


def test_what_was_cut_is_told_beside_the_score() -> None:
    tokens = ConversationTokenizer(tokenizer(), 80)
    ((reward,),) = read_in_batches(tokens, [query("one")], [["word " * 40]], Reader(), 1000)
    assert reward.score == 80
    assert reward.note.startswith("only the last ")


def test_candidates_of_fewer_queries_than_there_are_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        read_in_batches(ConversationTokenizer(tokenizer(), 80), [query("one")], [], Reader(), 100)


def test_padding_stands_on_the_right_and_is_masked() -> None:
    ids, mask = padded([Conversation((5, 6, 7), 0), Conversation((8,), 0)], 9, "cpu")
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
