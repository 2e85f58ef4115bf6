from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.truncation import CUT, ending, estimated_tokens, fair_shares, fitted


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 3000))
def test_shares_fill_the_room_and_nobody_gets_less_than_another_who_asked_more(lengths: list[int], room: int) -> None:
    shares = fair_shares(lengths, room)
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    assert sum(shares) == min(sum(lengths), room)
    cut = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    assert max(cut, default=0) - min(cut, default=0) <= 1
    assert all(share <= min(cut) + 1 for share in shares) if cut else True


def test_what_short_ones_leave_goes_to_the_long() -> None:
    assert fair_shares([10, 100, 100], 90) == [10, 40, 40]
    assert fair_shares([5, 5], 90) == [5, 5]
    assert fair_shares([5, 5], -1) == [0, 0]


@given(st.lists(st.text(min_size=1), max_size=5), st.integers(0, 200))
def test_texts_fit_the_room_and_whole_ones_are_left_alone(texts: list[str], room: int) -> None:
    shown = fitted(texts, room, len)
    assert sum(map(len, shown)) <= room
    for text, kept in zip(texts, shown, strict=True):
        assert kept == text or kept == "" or (kept.startswith(CUT) and text.endswith(kept.removeprefix(CUT)))


def test_a_long_one_keeps_its_end() -> None:
    assert ending("step one, step two, so it is 12", 10, len) == f"{CUT} is 12"
    assert ending("abc", 2, len) == ""


def test_a_megabyte_is_cut_without_counting_all_of_it() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return estimated_tokens(text)

    shown = fitted(["x" * 1_000_000 + " so 12", "12"], 100, count)
    assert shown[0].endswith(" so 12")
    assert shown[1] == "12"
    assert max(counted) < 10_000


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("word", 2), ("1234", 4), ("数学", 2), ("a+b", 2)])
def test_tokens_are_estimated(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens
