from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.loading.eviction import NEVER, KnownOrder, Standing, eviction_order, needed_later, victims


def fewest_misses(trace: str, frames: int) -> int:
    """Every choice of victim tried: what no policy that fills on each miss can beat."""

    @cache
    def rest(place: int, held: frozenset[str]) -> int:
        if place == len(trace):
            return 0
        wanted = trace[place]
        if wanted in held:
            return rest(place + 1, held)
        if len(held) < frames:
            return 1 + rest(place + 1, held | {wanted})
        return 1 + min(rest(place + 1, held - {victim} | {wanted}) for victim in held)

    return rest(0, frozenset())


def misses(trace: str, frames: int, known: str) -> int:
    """What the rules of this module give for `trace` when `known` was told at the start."""
    order, held, count = KnownOrder(known), dict[str, int](), 0
    for now, key in enumerate(trace):
        if key not in held:
            count += 1
            if len(held) == frames:
                del held[eviction_order(Standing(one, order.next_use(one), held[one]) for one in held)[0]]
        held[key] = now
        order.used(key)
    return count


def least_recently_used(trace: str, frames: int) -> int:
    held, count = list[str](), 0
    for key in trace:
        count += key not in held
        held = ([one for one in held if one != key] + [key])[-frames:]
    return count


TRACES = st.text(alphabet="abcde", max_size=12)


@given(trace=TRACES, frames=st.integers(1, 4))
def test_with_the_order_known_no_policy_has_fewer_misses(trace: str, frames: int) -> None:
    assert misses(trace, frames, known=trace) == fewest_misses(trace, frames)


@given(trace=TRACES, frames=st.integers(1, 4))
def test_with_no_order_known_the_least_recently_used_goes(trace: str, frames: int) -> None:
    assert misses(trace, frames, known="") == least_recently_used(trace, frames)


def test_knowing_the_order_pays() -> None:
    trace = "abcabcabcabc"
    assert (misses(trace, 2, known=trace), misses(trace, 2, known="")) == (7, 12)


def test_a_use_takes_the_first_mention_out_of_the_order() -> None:
    order = KnownOrder("aba")
    assert (order.next_use("a"), order.next_use("b"), order.next_use("c")) == (0, 1, NEVER)
    order.used("a")
    assert (order.next_use("a"), order.next_use("b")) == (2, 1)
    order.used("a")
    order.used("a")
    order.used("c")
    assert (order.next_use("a"), order.next_use("b")) == (NEVER, 1)


def test_what_the_order_does_not_name_goes_first_the_least_recently_used_before_the_others() -> None:
    standings = [Standing("soon", 1, 0), Standing("late", 9, 5), Standing("new", NEVER, 7), Standing("old", NEVER, 2)]
    assert eviction_order(standings) == ["old", "new", "late", "soon"]


@pytest.mark.parametrize(("at", "expendable"), [(1, ["late", "unnamed"]), (9, ["unnamed"]), (NEVER, ["unnamed"])])
def test_a_prefetch_may_push_out_only_what_is_needed_after_it(at: float, expendable: list[str]) -> None:
    standings = [Standing("soon", 1, 0), Standing("late", 9, 0), Standing("unnamed", NEVER, 0)]
    assert [one.key for one in needed_later(standings, at)] == expendable


def test_nobody_goes_if_it_fits_already_or_would_not_fit_even_so() -> None:
    assert victims("abc", lambda keys: True) == []
    assert victims("abc", lambda keys: False) is None


def test_those_whose_going_does_not_help_stay() -> None:
    def fits(gone: Sequence[str]) -> bool:
        return {"b", "d"} <= set(gone)  # their bytes are neighbours, those of the others lie elsewhere

    assert victims("abcde", fits) == ["b", "d"]


@given(st.permutations("abcdef"), st.sets(st.sampled_from("abcdef")))
def test_room_is_made_whenever_it_can_be_and_with_no_victim_too_many(order: list[str], needed: set[str]) -> None:
    assert set(victims(order, lambda gone: needed <= set(gone)) or []) == needed
