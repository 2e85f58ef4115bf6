"""Runs batches beside the online requests of one process; what it leaves unfinished it, or another, takes up again.

A lease lets one process at a time work on a batch, on whatever machine it is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

from symmoe.errors import StoreError
from symmoe.limits import BATCHES_RUNNING, KEYS_RUNNING

from ..settings import Settings
from ..storage import Storage
from .answering import BatchResources
from .batches import BatchRecord
from .files import Files
from .job import Job, NotHereError
from .store_access import cancel, patiently, script

_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Leases:
    """Leases of one process, `seconds` long. A lease that the store has forgotten is taken up again."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self._storage, self._milliseconds = storage, max(1, round(1000 * seconds))
        self._holder = secrets.token_hex(12)

    async def hold(self, ident: str) -> bool:
        """Take or renew the lease of a batch; False if somebody else has it."""
        words = self._holder, self._milliseconds
        return bool(await patiently(self._storage, lambda client: script(client, _RENEW, [_key(ident)], *words)))

    async def release(self, ident: str) -> None:
        """Let others have it at once. Raises `StoreError`; it ends by itself in any case."""
        await self._storage.do(lambda client: script(client, _RELEASE, [_key(ident)], self._holder))


def _key(ident: str) -> str:
    return f"symmoe:batch:{{{ident}}}:lease"


_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
_PAUSE = 5.0
_ELSEWHERE = 30.0
_EXPIRY_SECONDS = 60.0


@dataclass(slots=True)
class _Run:
    owner: str
    task: asyncio.Task[None]
    job: Job | None = None


class Runner:
    """Takes the batches of every key in the order of their creation, a few at a time: first one of each key, then more.

    Each is leased, so that no two processes work on it. `start` it within a running event loop.
    """

    def __init__(self, files: Files, leases: Leases, resources: BatchResources, settings: Settings) -> None:
        self._files, self._leases, self._resources = files, leases, resources
        self._settings, self._lease = settings, settings.batch_lease
        self._runs: dict[str, _Run] = {}
        self._woken = asyncio.Event()
        self._urgent: dict[str, str] = {}
        self._elsewhere: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._expired = 0.0

    def start(self) -> None:
        """Begin to look for batches."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop. Batches that are not over stay as they are, for the next runner."""
        tasks = [run.task for run in self._runs.values()]
        await cancel(*tasks, *([] if self._task is None else [self._task]))

    def wake(self) -> None:
        """Look for batches now, as there is a new one."""
        self._woken.set()

    def cancelled(self, batch: BatchRecord) -> None:
        """End a batch that was cancelled: stop it if it runs here, else take it next, whatever else runs."""
        run = self._runs.get(batch.id)
        if run is not None and run.job is not None:
            run.job.stop()
        self._urgent[batch.id] = batch.owner
        self._woken.set()

    async def _watch(self) -> None:
        await asyncio.to_thread(self._files.contents.sweep)
        while True:
            self._woken.clear()
            try:
                await self._look()
            except Exception:
                _LOG.exception("looking for batches failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_SECONDS, self._lease)):
                    await self._woken.wait()

    async def _look(self) -> None:
        """Take what can be taken. Where no file was ever uploaded, the store is not even opened."""
        if not await asyncio.to_thread(lambda: self._files.contents.any):
            return
        await self._expire()
        opened = await self._resources.progress.open()
        urgent, self._urgent = self._urgent, {}
        for ident, owner in (*urgent.items(), *_in_turn(opened)):
            may = ident in urgent or (self._may_run(owner) and not self._is_elsewhere(ident))
            if may and ident not in self._runs and await self._leases.hold(ident):
                self._runs[ident] = _Run(owner, asyncio.create_task(self._run(ident, owner)))
        self._resources.metrics.set_counts(sum(map(len, opened.values())), len(self._runs))

    def _may_run(self, owner: str) -> bool:
        """Whether there is room for a batch of a key: its first waits for no more than those of other keys."""
        first = all(run.owner != owner for run in self._runs.values())
        return len(self._runs) < (KEYS_RUNNING if first else BATCHES_RUNNING)

    async def _expire(self) -> None:
        """Delete what has expired, once in a while; where there was much of it, the rest when it is looked again."""
        if time.monotonic() < self._expired + _EXPIRY_SECONDS:
            return
        with suppress(StoreError, OSError):  # the next look will do
            await self._resources.progress.sweep()
            if not await self._files.expire() + await self._resources.progress.expire():
                self._expired = time.monotonic()

    async def _run(self, ident: str, owner: str) -> None:
        """One batch, as long as the lease is ours."""
        try:
            batch = await self._resources.progress.read(ident)
            if batch is None:
                await self._resources.progress.forget(ident, owner)  # its record was never written, or was lost
                return
            job = Job(batch, self._files, self._resources, self._settings)
            self._runs[ident].job = job
            await self._while_held(ident, job)
        except NotHereError:
            self._elsewhere[ident] = time.monotonic() + _ELSEWHERE
        except Exception:
            _LOG.exception("batch %s failed here and is tried again", ident)
            await asyncio.sleep(_PAUSE)
        finally:
            with suppress(StoreError, OSError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._leases.release(ident)
            del self._runs[ident]
            self._woken.set()

    def _is_elsewhere(self, ident: str) -> bool:
        """Whether the contents of a batch's input were not found here a while ago: another machine may have them."""
        if self._elsewhere.get(ident, 0.0) > time.monotonic():
            return True
        self._elsewhere.pop(ident, None)
        return False

    async def _while_held(self, ident: str, job: Job) -> None:
        running = asyncio.ensure_future(job.run())
        try:
            while not running.done():
                await asyncio.wait((running,), timeout=self._lease / 4)
                if not running.done() and not await self._still_ours(ident, job):
                    return
            running.result()
        finally:
            await cancel(running)

    async def _still_ours(self, ident: str, job: Job) -> bool:
        """Renew the lease, and see whether another process was told to cancel the batch."""
        if not await self._leases.hold(ident):
            return False
        batch = await self._resources.progress.read(ident)
        if batch is not None and "cancelling_at" in batch.facts:
            job.stop()
        return batch is not None


def _in_turn(opened: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Batches with their owners: the first of every owner, then the second of every owner, and so on."""
    for batches in zip_longest(*opened.values()):
        yield from ((ident, owner) for ident, owner in zip(batches, opened, strict=True) if ident is not None)
