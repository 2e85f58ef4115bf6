from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.arena import PAGE, attach, whole_pages
from symmoe.loading.host_tier import NEVER, Held, HostTier, KnownOrder, Resident, eviction_order, needed_later, victims
from tests.loading.fake_images import FakeSource, bytes_of, content


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
                del held[eviction_order(Resident(one, order.next_use(one), held[one]) for one in held)[0]]
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
    residents = [Resident("soon", 1, 0), Resident("late", 9, 5), Resident("new", NEVER, 7), Resident("old", NEVER, 2)]
    assert eviction_order(residents) == ["old", "new", "late", "soon"]


@pytest.mark.parametrize(("at", "expendable"), [(1, ["late", "unnamed"]), (9, ["unnamed"]), (NEVER, ["unnamed"])])
def test_a_prefetch_may_push_out_only_what_is_needed_after_it(at: float, expendable: list[str]) -> None:
    residents = [Resident("soon", 1, 0), Resident("late", 9, 0), Resident("unnamed", NEVER, 0)]
    assert [one.key for one in needed_later(residents, at)] == expendable


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


@pytest.fixture
def source() -> FakeSource:
    return FakeSource.of_pages(a=1, b=1, c=1, d=1, two=2, three=3, nine=9)


@pytest.fixture
def tier(source: FakeSource) -> Iterator[HostTier]:
    """Room for three images of one page."""
    with closing(HostTier(3 * PAGE, source)) as tier:
        yield tier


def used(tier: HostTier, *keys: str) -> list[bool]:
    """Use each in turn; whether it was there."""
    hits = []
    for key in keys:
        hits.append(key in tier.resident)
        with tier.use(key) as held:
            assert bytes_of(held) == content(key, held.nbytes)
    return hits


def test_an_image_is_made_once_and_there_from_then_on(tier: HostTier, source: FakeSource) -> None:
    assert used(tier, "a", "a", "b", "a") == [False, True, False, True]
    assert source.fills == {"a": 1, "b": 1}
    assert tier.resident == {"a": PAGE, "b": PAGE}


def test_other_processes_find_the_bytes_where_held_says(tier: HostTier) -> None:
    with tier.use("b"), tier.use("a") as held:
        assert (held.offset, held.nbytes) == (PAGE, PAGE)
        with attach(held.path) as mapped:
            assert mapped[held.offset : held.offset + held.nbytes] == content("a", PAGE)


def test_with_no_order_known_the_least_recently_used_makes_room(tier: HostTier) -> None:
    used(tier, "a", "b", "c", "a", "d")
    assert set(tier.resident) == {"a", "c", "d"}


def test_with_the_order_known_what_is_needed_last_makes_room(tier: HostTier) -> None:
    tier.expect(["a", "b", "c", "d", "a", "b"])
    used(tier, "a", "b", "c", "d")
    assert set(tier.resident) == {"a", "b", "d"}
    assert used(tier, "a", "b") == [True, True]


@given(trace=st.text(alphabet="abcde", min_size=1, max_size=9), frames=st.integers(1, 3))
def test_in_a_known_order_no_policy_fills_less_often(trace: str, frames: int) -> None:
    source = FakeSource.of_pages(a=1, b=1, c=1, d=1, e=1)
    with closing(HostTier(frames * PAGE, source)) as tier:
        tier.expect(trace)
        used(tier, *trace)
        assert sum(source.fills.values()) == fewest_misses(trace, frames)


def test_what_is_prefetched_is_there_when_it_is_used(tier: HostTier, source: FakeSource) -> None:
    assert tier.prefetch("a").result(30) is True
    assert used(tier, "a") == [True]
    assert tier.prefetch("a").result(30) is True
    assert source.fills == {"a": 1}


def test_a_prefetch_pushes_out_what_is_needed_after_it_and_nothing_else(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.expect(["a", "b", "d", "c"])
    assert tier.prefetch("d").result(30) is True
    assert set(tier.resident) == {"a", "b", "d"}
    assert tier.prefetch("c").result(30) is False
    assert set(tier.resident) == {"a", "b", "d"}


def test_a_prefetch_that_is_declined_pushes_out_nothing_on_the_way(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.expect(["a", "two", "b"])
    tier.pin("c")
    assert tier.prefetch("two").result(30) is False
    assert set(tier.resident) == {"a", "b", "c"}


def test_what_is_pinned_stays_until_it_is_unpinned_as_often(tier: HostTier) -> None:
    tier.pin("a")
    tier.pin("a")
    used(tier, "a", "b", "c", "d")
    tier.unpin("a")
    used(tier, "b", "c", "d", "two")
    assert "a" in tier.resident
    tier.unpin("a")
    used(tier, "three")
    assert set(tier.resident) == {"three"}
    with pytest.raises(ValueError, match="a is not pinned"):
        tier.unpin("a")


def test_room_in_pieces_is_made_whole_without_pushing_out_what_does_not_help(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.expect(["c", "a"])
    used(tier, "two")  # with b and c gone it fits as well, but a is needed later
    assert set(tier.resident) == {"two", "c"}
    tier.expect(["c"])
    used(tier, "a", "b")
    tier.expect(["b", "c"])
    used(tier, "two")  # c is needed later than b, but its bytes do not help
    assert set(tier.resident) == {"two", "c"}


def test_an_image_larger_than_the_budget_is_an_error_that_says_both(tier: HostTier) -> None:
    used(tier, "a")
    with pytest.raises(CapacityError, match=r"nine needs 36,864 bytes, the host tier has 12,288") as error:
        used(tier, "nine")
    assert error.value.hint == "give the host tier 36,864 bytes or more"
    with pytest.raises(CapacityError, match="nine needs"):
        tier.prefetch("nine").result(30)
    assert set(tier.resident) == {"a"}


def test_with_everything_in_use_a_use_is_an_error_and_a_prefetch_declined(tier: HostTier) -> None:
    tier.pin("c")
    used(tier, "c")
    with tier.use("a"), tier.use("b"):
        with pytest.raises(CapacityError, match=r"no room for d \(4,096 bytes\).* beside .*: a, b, c$") as error:
            used(tier, "d")
        assert error.value.hint
        assert tier.prefetch("d").result(30) is False
    assert used(tier, "d") == [False]


def test_a_fill_that_fails_reserves_nothing_and_is_tried_again(tier: HostTier, source: FakeSource) -> None:
    source.errors["a"] = [CheckpointError("a: truncated"), CheckpointError("a: truncated")]
    with pytest.raises(CheckpointError, match="a: truncated"):
        used(tier, "a")
    with pytest.raises(CheckpointError, match="a: truncated"):
        tier.prefetch("a").result(30)
    assert tier.resident == {}
    assert used(tier, "three", "a") == [False, False]


def test_a_source_that_fails_reserves_nothing_and_is_asked_again(tier: HostTier, source: FakeSource) -> None:
    with pytest.raises(KeyError, match="unheard"):
        used(tier, "unheard")
    with pytest.raises(KeyError, match="unheard"):
        tier.prefetch("unheard").result(30)
    source.sizes = {"unheard": PAGE}
    assert tier.prefetch("unheard").result(30) is True


def test_closing_twice_is_safe_and_nothing_can_be_asked_after(source: FakeSource) -> None:
    tier = HostTier(3 * PAGE, source)
    with tier.use("a") as held:
        path = held.path
    tier.close()
    tier.close()
    with pytest.raises(ValueError, match="closed"):
        used(tier, "a")
    with pytest.raises(ValueError, match="closed"):
        tier.prefetch("a")
    with pytest.raises(CheckpointError):
        attach(path)


def test_a_tier_that_is_dropped_without_being_closed_gives_its_memory_back(source: FakeSource) -> None:
    before = set(threading.enumerate())
    tiers = [HostTier(3 * PAGE, source)]
    tiers[0].prefetch("a").result(30)
    (fetcher,) = set(threading.enumerate()) - before
    with tiers[0].use("a") as held:
        path = held.path

    def drop() -> None:
        tiers.clear()
        fetcher.join(30)

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()
    assert not fetcher.is_alive()
    with pytest.raises(CheckpointError):
        attach(path)


def test_a_budget_that_the_machine_does_not_have_is_an_error_at_once(source: FakeSource) -> None:
    with pytest.raises(CapacityError, match="are free, the host tier is to have"):
        HostTier(1 << 50, source)


BUDGET = 10 * PAGE
KEYS = st.sampled_from("abcdefgh")
SIZES = st.integers(1, 6 * PAGE) | st.just(11 * PAGE)
UNKNOWN = 1000


class Tier(RuleBasedStateMachine):
    """Prefetches are waited for, so that each step has one outcome."""

    @initialize(sizes=st.lists(SIZES, min_size=8, max_size=8))
    def begin(self, sizes: list[int]) -> None:
        self.source = FakeSource(dict(zip("abcdefgh", sizes, strict=True)))
        self.tier = HostTier(BUDGET, self.source)
        self.order: list[str] = []
        self.held: list[tuple[str, Held, ExitStack]] = []
        self.pins: Counter[str] = Counter()

    def kept(self) -> set[str]:
        return {key for key, _, _ in self.held} | {key for key, count in self.pins.items() if count}

    def need(self, key: str) -> int:
        return self.order.index(key) if key in self.order else UNKNOWN

    @rule(keys=st.lists(KEYS, max_size=8))
    def expect(self, keys: list[str]) -> None:
        self.order = list(keys)
        self.tier.expect(keys)

    @rule(key=KEYS, fails=st.booleans())
    def prefetch(self, key: str, fails: bool) -> None:
        before, kept = dict(self.tier.resident), self.kept()
        self.source.errors[key] = [CheckpointError("broken")] if fails else []
        try:
            arrived = self.tier.prefetch(key).result(30)
        except CapacityError:
            assert self.source.sizes[key] > BUDGET
            assert dict(self.tier.resident) == before
            return
        except CheckpointError:
            assert fails
            assert key not in self.tier.resident
        else:
            assert arrived == (key in self.tier.resident)
            assert arrived or dict(self.tier.resident) == before
        finally:
            self.source.errors.clear()
        gone = before.keys() - self.tier.resident.keys()
        assert gone.isdisjoint(kept)
        assert all(self.need(one) > self.need(key) or self.need(one) == UNKNOWN for one in gone)

    @rule(key=KEYS, keep=st.booleans())
    def use(self, key: str, keep: bool) -> None:
        before, filled = dict(self.tier.resident), self.source.fills[key]
        stack = ExitStack()
        try:
            held = stack.enter_context(self.tier.use(key))
        except CapacityError:
            assert self.source.sizes[key] > BUDGET or self.kept()
            assert dict(self.tier.resident) == before
            return
        assert self.source.fills[key] - filled == (key not in before)
        assert held.nbytes == self.source.sizes[key]
        if key in self.order:
            self.order.remove(key)
        self.held.append((key, held, stack))
        if not keep:
            self.let_go(key)

    @rule(key=KEYS)
    def use_what_breaks(self, key: str) -> None:
        before = dict(self.tier.resident)
        if key in before or self.source.sizes[key] > BUDGET:
            return
        self.source.errors[key] = [CheckpointError("broken")]
        with pytest.raises((CheckpointError, CapacityError)), self.tier.use(key):
            raise AssertionError("it should not be there")
        self.source.errors.clear()
        assert key not in self.tier.resident

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 7))
    def end_a_use(self, which: int) -> None:
        self.let_go(self.held[which % len(self.held)][0])

    def let_go(self, key: str) -> None:
        found = next(one for one in reversed(self.held) if one[0] == key)
        self.held.remove(found)
        found[2].close()

    @rule(key=KEYS)
    def pin(self, key: str) -> None:
        self.pins[key] += 1
        self.tier.pin(key)

    @rule(key=KEYS)
    def unpin(self, key: str) -> None:
        if self.pins[key]:
            self.pins[key] -= 1
            self.tier.unpin(key)

    @invariant()
    def what_is_held_is_there_and_right_and_nothing_overlaps(self) -> None:
        if not hasattr(self, "tier"):
            return
        resident = self.tier.resident
        assert sum(whole_pages(nbytes) for nbytes in resident.values()) <= BUDGET
        places: dict[str, tuple[int, int]] = {}
        for key, held, _ in self.held:
            assert key in resident
            assert bytes_of(held) == content(key, held.nbytes)
            assert places.setdefault(key, (held.offset, held.offset + held.nbytes))[0] == held.offset
        ends = [0, *(end for _, end in sorted(places.values()))]
        assert all(begin >= end for (begin, _), end in zip(sorted(places.values()), ends, strict=False))

    def teardown(self) -> None:
        if not hasattr(self, "tier"):
            return
        filled = self.source.fills.total()
        for key in self.tier.resident:  # all are there, so nothing moves; overlapping images would spoil each other
            with self.tier.use(key) as held:
                assert bytes_of(held) == content(key, held.nbytes)
        assert self.source.fills.total() == filled
        while self.held:
            self.let_go(self.held[0][0])
        for key in self.pins.elements():
            self.tier.unpin(key)
        self.source.sizes["all"] = BUDGET  # there is room for it only if nothing was left behind
        with self.tier.use("all") as held:
            assert held.nbytes == BUDGET
        self.tier.close()


TestTier: Any = Tier.TestCase
TestTier.settings = settings(stateful_step_count=40)
