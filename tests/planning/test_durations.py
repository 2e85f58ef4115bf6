from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.planning.durations import Durations


def test_before_anything_was_seen_nothing_is_known() -> None:
    assert Durations().of(3) is None


def test_one_observation_says_the_same_of_every_count() -> None:
    seen = Durations()
    seen.saw(4, 2.0)
    assert seen.of(1) == seen.of(30) == 2.0


def test_a_line_is_found_and_followed_when_it_changes() -> None:
    seen = Durations()
    for base, slope in ((0.3, 0.02), (1.0, 0.1)):
        for number in range(600):
            count = 1 + number % 30
            seen.saw(count, base + slope * count)
        assert seen.of(1) == pytest.approx(base + slope, rel=0.02)
        assert seen.of(30) == pytest.approx(base + 30 * slope, rel=0.02)


@given(st.lists(st.tuples(st.floats(1, 64), st.floats(0, 100)), min_size=1, max_size=50), st.integers(1, 64))
def test_it_never_falls_nor_goes_below_zero(seen: list[tuple[float, float]], count: int) -> None:
    line = Durations()
    for each in seen:
        line.saw(*each)
    here, there = line.of(count), line.of(count + 1)
    assert here is not None
    assert there is not None
    assert -1e-9 <= here <= there + 1e-9
