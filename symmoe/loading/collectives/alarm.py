"""How a gather ends when something goes wrong: once, everywhere, with one cause."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.group import GatherGroup

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Awaited = tuple[int, int | None]
"""A rank, and the chunk that is awaited from it, if it is about a chunk."""
_GRACE_SECONDS = 1.0
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: at which rank, at which chunk if at one, and which rank found it."""

    rank: int
    chunk: int | None
    what: str
    found_by: int

    def error(self) -> CollectiveError:
        """The error that every rank raises."""
        where = f"rank {self.rank}" if self.chunk is None else f"rank {self.rank}, chunk {self.chunk}"
        return CollectiveError(
            f"{where}: {self.what} (found by rank {self.found_by})",
            rank=self.rank,
            chunk=self.chunk,
            hint="the group is closed and what was gathered may be incomplete; open another group, or copy alone",
        )


class Alarm:
    """The first failure of a gather, as all ranks see it, and what watches for failures.

    Whoever finds one writes it to the store, where the first stays, and breaks off its connections. That wakes its
    peers, who find the cause in the store and do the same. Two threads watch: one waits for each peer's word that it is
    done, and so sees it go; one ends the gather when its time is up.
    """

    def __init__(self, group: GatherGroup, timeout: float, owed: Callable[[int], int | None]) -> None:
        self.failure: Failure | None = None
        self.awaiting: Awaited | None = None
        """What the gather waits for at the moment, kept up to date by the gather."""
        self._group = group
        self._timeout = timeout
        self._owed = owed
        self._peers = [(group.rank + step) % group.size for step in range(1, group.size)]
        self._watched = group.rank
        self._heard: dict[int, list[Any]] = {}
        self._store: Store | None = None
        self._started = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, plan: str) -> None:
        """Begin to watch, and wait until all ranks have come with the same plan."""
        self._store = self._group.next_gather(self._timeout)
        self._started = True
        for peer in self._peers:
            self._heard[peer] = [self._group.hear_done(peer)]
        self._begin(self._watch)
        self._meet(plan)
        self._begin(self._limit)

    def fail(self, rank: int, chunk: int | None, what: str) -> CollectiveError:
        """Report a failure, unless there was one before; the error to raise. Any thread may call it."""
        with self._lock:
            if self.failure is None:
                self.failure = self._first(Failure(rank, chunk, what, self._group.rank))
                if self._started:
                    self._group.break_off()
                self._failed.set()
        return self.failure.error()

    def lost(self, awaited: Awaited) -> CollectiveError:
        """Report that the connection to a rank broke."""
        return self.fail(*awaited, "the rank is gone, its connection closed")

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure.error()

    def stopped(self) -> bool:
        """Whether there is a failure."""
        return self.failure is not None

    def finish(self) -> None:
        """Tell all ranks that this one is done, and wait until all are."""
        self.awaiting = None
        words = [self._group.say_done(peer) for peer in self._peers]
        for peer in self._peers:
            if not self._group.wait_for_word(words):
                error = self.lost((peer, self._owed(peer)))
                words.clear()
                raise error
        self._threads[0].join()
        self.check()

    def stop(self) -> None:
        """End the watching threads; after a failure the connections too."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._heard.clear()
        if self._group.carrier is not None:
            self._group.carrier.forget()
        self._store = None
        if self._started and self.failure is not None:
            self._group.close()

    def _begin(self, watch: Callable[[], None]) -> None:
        thread = threading.Thread(target=watch, name=f"gather{watch.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _first(self, found: Failure) -> Failure:
        """The failure that was reported first, by whichever rank."""
        if self._store is None:
            return found
        try:
            kept = self._store.compare_set("failure", "", json.dumps(asdict(found)))
            return Failure(**json.loads(kept))
        except RuntimeError:  # whoever hosts the store is gone: what was found here must do
            return found

    def exchange(self, what: str, own: bytes) -> list[bytes]:
        """Say something to all ranks, and wait for what each says; by rank."""
        store, ranks = self._store, range(self._group.size)
        until = time.monotonic() + self._timeout
        assert store is not None, "exchanges are between `start` and `stop`"  # noqa: S101
        try:
            store.set(f"{what}/{self._group.rank}", own)  # type: ignore[arg-type]  # it takes bytes too
            while not store.check([f"{what}/{rank}" for rank in ranks]):
                self.check()
                if time.monotonic() > until:
                    late = next((rank for rank in ranks if not store.check([f"{what}/{rank}"])), self._group.rank)
                    raise self.fail(late, None, f"did not come within {self._timeout:g} s")
                time.sleep(_POLL_SECONDS)
            return [store.get(f"{what}/{rank}") for rank in ranks]
        except RuntimeError:
            # its host may be the rank that was lost: then the watch is about to say so
            self._failed.wait(_GRACE_SECONDS)
            raise self.fail(self._group.rank, None, "cannot reach the store") from None

    def _meet(self, plan: str) -> None:
        plans = self.exchange("plan", plan.encode())
        other = next((rank for rank, its in enumerate(plans) if its != plans[0]), None)
        if other is not None:
            raise self.fail(other, None, "was given another plan than rank 0")

    def _watch(self) -> None:
        for peer in self._peers:
            self._watched = peer
            if not self._group.wait_for_word(self._heard[peer]):
                self.lost((peer, self._owed(peer)))
                return

    def _limit(self) -> None:
        if self._over.wait(self._timeout):
            return
        store, rank = self._store, self._group.rank
        awaited = self.awaiting or (self._watched, self._owed(self._watched))
        with suppress(RuntimeError):
            if store is not None:
                store.set(f"awaiting/{rank}", json.dumps(awaited))
            if self._over.wait(_GRACE_SECONDS):
                return
            awaited = self._root(store, awaited) if store is not None else awaited
        self.fail(*awaited, f"nothing came of it within {self._timeout:g} s")

    def _root(self, store: Store, awaited: Awaited) -> Awaited:
        """Whom all wait for: the awaited rank, or whoever that one says it waits for, and so on."""
        seen = {self._group.rank}
        while awaited[0] not in seen and store.check([f"awaiting/{awaited[0]}"]):
            seen.add(awaited[0])
            rank, chunk = json.loads(store.get(f"awaiting/{awaited[0]}"))
            awaited = (rank, chunk)
        return awaited
