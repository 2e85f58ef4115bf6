"""Which images hold which bytes of the budget, and which of them go to make room. Pure bookkeeping, not thread-safe."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from symmoe.errors import CapacityError
from symmoe.loading.arena import Allocator, whole_pages
from symmoe.loading.eviction import KnownOrder, Standing, eviction_order, needed_later, victims


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one image, reserved before it is filled. One whose fill failed is gone, and has its `error`."""

    offset: int
    nbytes: int
    last_use: int
    ready: bool = False
    error: BaseException | None = None


class Residency:
    """Slots by key within `budget` bytes. What is pinned or being filled stays where it is."""

    def __init__(self, budget: int) -> None:
        self.slots: dict[str, Slot] = {}
        self.order = KnownOrder()
        self.evictions = 0
        self._allocator = Allocator(budget)
        self._pins: Counter[str] = Counter()
        self._clock = itertools.count()

    @property
    def used(self) -> int:
        """Bytes taken up, in whole pages."""
        return self._allocator.used

    def pin(self, key: str) -> None:
        """Keep this key, there or yet to come, until it is unpinned as often."""
        self._pins[key] += 1

    def unpin(self, key: str) -> None:
        """Take one pin back. `ValueError` if there is none."""
        if not self._pins[key]:
            raise ValueError(f"{key} is not pinned")
        self._pins[key] -= 1

    def touch(self, key: str) -> None:
        """Take note of a use."""
        self.order.used(key)
        self.slots[key].last_use = next(self._clock)

    def reserve(self, key: str, nbytes: int, prefetch: bool = False) -> Slot | None:
        """A slot for an image that has none, evicting what must go; None, and nothing evicted, if no room can be made.

        A prefetch makes no room at the cost of what is needed sooner. `CapacityError` if the budget can never hold it.
        """
        if whole_pages(nbytes) > self._allocator.capacity:
            raise CapacityError(
                f"{key} needs {whole_pages(nbytes):,} bytes, the host tier has {self._allocator.capacity:,}",
                hint=f"give the host tier {whole_pages(nbytes):,} bytes or more",
            )
        standings = self._evictable()
        if prefetch:
            standings = needed_later(standings, self.order.next_use(key))
        leaving = victims(eviction_order(standings), lambda keys: self._fits(nbytes, keys))
        if leaving is None:
            return None
        for one in leaving:
            self.evict(one)
        offset = self._allocator.allocate(nbytes)
        assert offset is not None, "victims said that it fits"  # noqa: S101
        self.slots[key] = slot = Slot(offset, nbytes, next(self._clock))
        return slot

    def evict(self, key: str) -> bool:
        """Drop what may be dropped; False, and nothing done, for what is not there, pinned or being filled."""
        if all(one.key != key for one in self._evictable()):
            return False
        self.drop(key)
        self.evictions += 1
        return True

    def drop(self, key: str) -> None:
        """Free a slot, whatever its state."""
        self._allocator.free(self.slots.pop(key).offset)

    def room_to_come(self) -> bool:
        """Whether something is being filled that may be evicted right after."""
        return any(not slot.ready and not self._pins[key] for key, slot in self.slots.items())

    def no_room(self, key: str, nbytes: int) -> CapacityError:
        """The error for an image that does not fit beside what is kept."""
        kept = ", ".join(sorted(other for other in self.slots if self._pins[other]))
        return CapacityError(
            f"no room for {key} ({nbytes:,} bytes) in a host tier of {self._allocator.capacity:,} bytes beside what is "
            f"in use or pinned: {kept}",
            hint="give the host tier more bytes, or use fewer experts at once",
        )

    def _evictable(self) -> list[Standing]:
        return [
            Standing(key, self.order.next_use(key), slot.last_use)
            for key, slot in self.slots.items()
            if slot.ready and not self._pins[key]
        ]

    def _fits(self, nbytes: int, without: Sequence[str]) -> bool:
        return self._allocator.place(nbytes, {self.slots[key].offset for key in without}) is not None
