"""The host tier: experts as ready-made images in shared memory, within a hard budget, prefetched before their use.

Images are evicted by Belady's rule where the order of use is known, and least recently used first where it is not.
Belady, A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5, 1966): evicting what is
needed again furthest in the future gives the fewest misses. A batch's plan is such a known future.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from symmoe.errors import CapacityError
from symmoe.loading.arena import Allocator, Arena, whole_pages
from symmoe.loading.packed.layout import Layout

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Resident:
    """The worth of keeping an image: the position of its next use in the known order, and when it was last used."""

    key: str
    next_use: float
    last_use: int


class KnownOrder:
    """The known future uses, soonest first. Each use removes the first mention of its key."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._places: dict[str, deque[int]] = {}
        for place, key in enumerate(keys):
            self._places.setdefault(key, deque()).append(place)

    def next_use(self, key: str) -> float:
        """The position of the key's next use, comparable within this order only; `NEVER` if it has none."""
        places = self._places.get(key)
        return places[0] if places else NEVER

    def used(self, key: str) -> None:
        """Note a use of the key: its first mention is removed."""
        places = self._places.get(key)
        if places:
            places.popleft()


def eviction_order(residents: Iterable[Resident]) -> list[str]:
    """The keys in the order of eviction: furthest next use first; among equals, the least recently used."""
    return [one.key for one in sorted(residents, key=lambda one: (-one.next_use, one.last_use))]


def needed_later(residents: Iterable[Resident], than: float) -> list[Resident]:
    """The residents that an image next used at `than` may evict: those used later, or both with no known use."""
    return [one for one in residents if one.next_use > than or one.next_use == than == NEVER]


def victims(order: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """The shortest prefix of `order` whose eviction makes room, without those in it that are not needed for that.

    `fits` says whether there is room once the given keys are gone. None if evicting all of `order` makes no room.
    """
    count = next((n for n in range(len(order) + 1) if fits(order[:n])), None)
    if count is None:
        return None
    chosen = list(order[:count])
    for key in order[:count][::-1]:  # most worth keeping first: free bytes elsewhere do not help a fragmented arena
        without = [other for other in chosen if other != key]
        if fits(without):
            chosen = without
    return chosen


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one image, reserved before it is filled. If filling fails, it is removed and holds the `error`."""

    offset: int
    nbytes: int
    last_use: int
    ready: bool = False
    error: BaseException | None = None


class Residency:
    """Slots by key within `budget` bytes. Slots that are pinned or being filled are never evicted."""

    def __init__(self, budget: int) -> None:
        self.slots: dict[str, Slot] = {}
        self.order = KnownOrder()
        self._allocator = Allocator(budget)
        self._pins: Counter[str] = Counter()
        self._clock = itertools.count()

    def pin(self, key: str) -> None:
        """Keep this key, present or not yet, until it is unpinned as many times."""
        self._pins[key] += 1

    def unpin(self, key: str) -> None:
        """Remove one pin. Raises `ValueError` if there is none."""
        if not self._pins[key]:
            raise ValueError(f"{key} is not pinned")
        self._pins[key] -= 1

    def touch(self, key: str) -> None:
        """Note a use."""
        self.order.used(key)
        self.slots[key].last_use = next(self._clock)

    def reserve(self, key: str, nbytes: int, prefetch: bool = False) -> Slot | None:
        """A slot for an image that has none, evicting others if need be; None, evicting nothing, if there is no room.

        A prefetch does not evict what is needed sooner. Raises `CapacityError` if the budget can never hold the image.
        """
        if whole_pages(nbytes) > self._allocator.capacity:
            raise CapacityError(
                f"{key} needs {whole_pages(nbytes):,} bytes, the host tier has {self._allocator.capacity:,}",
                hint=f"give the host tier {whole_pages(nbytes):,} bytes or more",
            )
        residents = self._evictable()
        if prefetch:
            residents = needed_later(residents, self.order.next_use(key))
        leaving = victims(eviction_order(residents), lambda keys: self._fits(nbytes, keys))
        if leaving is None:
            return None
        for one in leaving:
            self.drop(one)
        offset = self._allocator.allocate(nbytes)
        assert offset is not None, "victims said that it fits"  # noqa: S101
        self.slots[key] = slot = Slot(offset, nbytes, next(self._clock))
        return slot

    def drop(self, key: str) -> None:
        """Free a slot, in whatever state."""
        self._allocator.free(self.slots.pop(key).offset)

    def room_to_come(self) -> bool:
        """Whether something is being filled that may be evicted right after."""
        return any(not slot.ready and not self._pins[key] for key, slot in self.slots.items())

    def no_room(self, key: str, nbytes: int) -> CapacityError:
        """The error for an image that does not fit beside those that must stay."""
        pinned = ", ".join(sorted(other for other in self.slots if self._pins[other]))
        return CapacityError(
            f"no room for {key} ({nbytes:,} bytes) in a host tier of {self._allocator.capacity:,} bytes beside what is "
            f"in use or pinned: {pinned}",
            hint="give the host tier more bytes, or use fewer experts at once",
        )

    def _evictable(self) -> list[Resident]:
        return [
            Resident(key, self.order.next_use(key), slot.last_use)
            for key, slot in self.slots.items()
            if slot.ready and not self._pins[key]
        ]

    def _fits(self, nbytes: int, without: Sequence[str]) -> bool:
        return self._allocator.place(nbytes, {self.slots[key].offset for key in without}) is not None


@dataclass(frozen=True, slots=True)
class Held:
    """An image held in place: a range of the file at `path`, which processes of this user attach to."""

    path: str
    offset: int
    nbytes: int


class HostTier:
    """Images by key in `budget_bytes` of shared memory, made by `source`. Safe to use from any thread.

    Space is reserved under one lock, and filled outside of it. Images in use, pinned or being filled stay; of the rest,
    those needed last by the order given to `expect` are evicted first. Users wait for each other on `changed`. Raises
    `CapacityError` where memory is short.
    """

    def __init__(
        self,
        budget_bytes: int,
        source: Callable[[str], Layout],
        changed: threading.Condition | None = None,
    ) -> None:
        self._arena = Arena(budget_bytes)
        self._residency = Residency(budget_bytes)
        self._source = source
        self._changed = changed or threading.Condition()
        self._queue: dict[str, None] = {}
        self._promises: dict[str, Future[bool]] = {}
        self._fetchers = ThreadPoolExecutor(1, "host-tier")
        self._closed = False

    def expect(self, keys: Sequence[str]) -> None:
        """Set the uses that come from now on, soonest first, replacing those expected before.

        Each use removes the first mention of its key, so call this again only when the plan changes.
        """
        with self._changed:
            self._residency.order = KnownOrder(keys)

    def prefetch(self, key: str) -> Future[bool]:
        """Fill an image in the background, the soonest needed of all queued first. True once it is present.

        False if declined: it would evict what is in use, pinned or needed sooner, or the tier closed first. The future
        raises what the source raised, and `CapacityError` for an image that the budget can never hold.
        """
        with self._changed:
            self._check_open()
            if key in self._promises:
                return self._promises[key]
            promise: Future[bool] = Future()
            promise.set_running_or_notify_cancel()  # it serves everyone who asks, so none of them can cancel it
            slot = self._residency.slots.get(key)
            if slot and slot.ready:
                promise.set_result(True)
                return promise
            self._promises[key] = promise
            if slot is None:
                self._queue[key] = None
                self._fetchers.submit(self._fetch_soonest)
            return promise

    @contextmanager
    def use(self, key: str) -> Iterator[Held]:
        """The image, kept in place for the with-block; filled now if absent, awaited if being filled.

        Raises what the source raised, and `CapacityError` if it cannot fit, at all or beside what is in use or pinned.
        """
        self.pin(key)
        try:
            slot = self._obtain(key)
            yield Held(self._arena.path, slot.offset, slot.nbytes)
        finally:
            self.unpin(key)

    def pin(self, key: str) -> None:
        """Protect an image from eviction, now or once it is present, until `unpin` was called as many times."""
        with self._changed:
            self._residency.pin(key)

    def unpin(self, key: str) -> None:
        """Remove one pin. Raises `ValueError` if there is none."""
        with self._changed:
            self._residency.unpin(key)
            self._changed.notify_all()

    @property
    def resident(self) -> Mapping[str, int]:
        """The images that are present, and their sizes in bytes."""
        with self._changed:
            return {key: slot.nbytes for key, slot in self._residency.slots.items() if slot.ready}

    def close(self) -> None:
        """Decline what is queued, wait for prefetches under way, and free the memory. Safe to call twice."""
        with self._changed:
            self._closed = True
            queued, self._queue = list(self._queue), {}
            self._changed.notify_all()
        for key in queued:
            self._keep_promise(key, False)
        self._fetchers.shutdown()
        self._arena.close()

    def _obtain(self, key: str) -> Slot:
        """The filled slot of a key that is pinned."""
        with self._changed:
            if slot := self._settled(key):
                self._residency.touch(key)
                return slot
        image = self._source(key)
        nbytes = image.nbytes
        with self._changed:
            while not (slot := self._settled(key)):
                if slot := self._reserve(key, nbytes):
                    break
                if not self._residency.room_to_come():
                    raise self._residency.no_room(key, nbytes)
                self._changed.wait()
            mine = not slot.ready
            self._residency.touch(key)
        if mine:
            self._fill(key, slot, image)
        return slot

    def _settled(self, key: str) -> Slot | None:
        """The slot of a pinned key once it is filled; None if it has none. Raises what the fill waited for raised."""
        self._check_open()
        while (slot := self._residency.slots.get(key)) and not slot.ready:
            self._changed.wait()
            self._check_open()
            if isinstance(slot.error, Exception):  # not if the thread that filled it was interrupted: then look again
                raise slot.error
        return slot

    def _reserve(self, key: str, nbytes: int, prefetch: bool = False) -> Slot | None:
        slot = self._residency.reserve(key, nbytes, prefetch)
        if slot:
            self._queue.pop(key, None)  # no need to wait for a fetcher: whoever reserves, fills
        return slot

    def _fetch_soonest(self) -> None:
        with self._changed:
            if not self._queue:
                return  # a use was faster, or the tier was closed
            key = min(self._queue, key=self._residency.order.next_use)
            del self._queue[key]
        try:
            image = self._source(key)
            nbytes = image.nbytes
            with self._changed:
                if key in self._residency.slots:
                    return  # a use was faster: its fill keeps the promise
                slot = self._reserve(key, nbytes, prefetch=True)
        except BaseException as error:
            self._keep_promise(key, error)
            return
        if slot:
            self._fill(key, slot, image)
        else:
            self._keep_promise(key, False)

    def _fill(self, key: str, slot: Slot, image: Layout) -> None:
        """Fill a reserved slot, or give it back; tell everyone who waits for it."""
        try:
            view = self._arena.view(slot.offset, slot.nbytes)
            try:
                image.write_into(view)
            finally:
                _release(view)
        except BaseException as error:
            with self._changed:
                slot.error = error
                self._residency.drop(key)
                self._changed.notify_all()
            self._keep_promise(key, error)
            raise
        with self._changed:
            slot.ready = True
            self._changed.notify_all()
        self._keep_promise(key, True)

    def _keep_promise(self, key: str, outcome: bool | BaseException) -> None:
        with self._changed:
            promise = self._promises.pop(key, None)
        if promise and isinstance(outcome, BaseException):
            promise.set_exception(outcome)
        elif promise:  # outside of the lock: callbacks run here
            promise.set_result(bool(outcome))

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the host tier is closed")


def _release(view: memoryview) -> None:
    with suppress(BufferError):  # an array over it lives on; it reads whatever comes to stand there
        view.release()
