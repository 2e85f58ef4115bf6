"""The host tier against a plain model of what it promises, in random orders of everything that can be asked of it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.arena import PAGE, whole_pages
from symmoe.loading.host_tier import Held, HostTier

from .fake_images import FakeSource, content

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
        before = dict(self.tier.resident)
        stack = ExitStack()
        try:
            held = stack.enter_context(self.tier.use(key))
        except CapacityError:
            assert self.source.sizes[key] > BUDGET or self.kept()
            assert dict(self.tier.resident) == before
            return
        assert held.hit == (key in before)
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

    @rule(key=KEYS)
    def evict(self, key: str) -> None:
        possible = key in self.tier.resident and key not in self.kept()
        assert self.tier.evict(key) == possible
        assert key not in self.tier.resident or not possible

    @invariant()
    def what_is_held_is_there_and_right_and_nothing_overlaps(self) -> None:
        if not hasattr(self, "tier"):
            return
        resident = self.tier.resident
        assert self.tier.used == sum(whole_pages(nbytes) for nbytes in resident.values()) <= BUDGET
        places: dict[str, tuple[int, int]] = {}
        for key, held, _ in self.held:
            assert key in resident
            assert bytes(held.view) == content(key, held.nbytes)
            assert places.setdefault(key, (held.offset, held.offset + held.nbytes))[0] == held.offset
        ends = [0, *(end for _, end in sorted(places.values()))]
        assert all(begin >= end for (begin, _), end in zip(sorted(places.values()), ends, strict=False))

    def teardown(self) -> None:
        if not hasattr(self, "tier"):
            return
        for key in self.tier.resident:  # all are hits, so nothing moves; overlapping images would spoil each other
            with self.tier.use(key) as held:
                assert held.hit
                assert bytes(held.view) == content(key, held.nbytes)
        self.tier.close()


TestTier: Any = Tier.TestCase
TestTier.settings = settings(max_examples=80, stateful_step_count=40)
