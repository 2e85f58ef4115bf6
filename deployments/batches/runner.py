"""Runs batches beside the online requests of one process; what it leaves unfinished it, or another, takes up again."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from symmoe.errors import StoreError

from .answering import Means
from .files import Files
from .job import Job, NotHereError
from .lease import Leases

_LOG = logging.getLogger(__name__)
_MOST_JOBS = 8
_LOOK_SECONDS = 2.0
_PAUSE = 5.0
_ELSEWHERE = 30.0
_EXPIRY_SECONDS = 60.0


class Runner:
    """Takes batches in the order of their creation, a few at a time: one that waits for an expert holds up no others.

    Each is leased, so that no two processes work on it. `start` it within a running event loop.
    """

    def __init__(self, files: Files, leases: Leases, means: Means, most_bytes: int, lease: float) -> None:
        self._files, self._leases, self._means = files, leases, means
        self._most_bytes, self._lease = most_bytes, lease
        self._jobs: dict[str, tuple[asyncio.Task[None], Job | None]] = {}
        self._woken = asyncio.Event()
        self._urgent: set[str] = set()
        self._elsewhere: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._expired = 0.0

    def start(self) -> None:
        """Begin to look for batches."""
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Leave everything as it is, for whoever comes next."""
        tasks = [task for task, _ in self._jobs.values()]
        for task in (*tasks, *([self._task] if self._task else [])):
            task.cancel()
        await asyncio.gather(*tasks, *([self._task] if self._task else []), return_exceptions=True)

    def wake(self) -> None:
        """There is a new batch."""
        self._woken.set()

    def cancelled(self, ident: str) -> None:
        """A batch was cancelled: stop it if it runs here, else have a look at it even if there is much to do."""
        _, job = self._jobs.get(ident, (None, None))
        if job is not None:
            job.stop()
        self._urgent.add(ident)
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
        opened = await self._means.progress.open()
        urgent, self._urgent = self._urgent & set(opened), set()
        for ident in opened:
            free = (len(self._jobs) < _MOST_JOBS and not self._is_elsewhere(ident)) or ident in urgent
            if free and ident not in self._jobs and await self._leases.hold(ident):
                self._jobs[ident] = (asyncio.create_task(self._run(ident)), None)
        self._means.metrics.there_are(len(opened), len(self._jobs))

    async def _expire(self) -> None:
        """Delete what has expired, once in a while; where there was much of it, the rest when it is looked again."""
        if time.monotonic() < self._expired + _EXPIRY_SECONDS:
            return
        with suppress(StoreError, OSError):  # the next look will do
            if not await self._files.expire():
                self._expired = time.monotonic()

    async def _run(self, ident: str) -> None:
        """One batch, as long as the lease is ours."""
        try:
            batch = await self._means.progress.read(ident)
            if batch is None:
                await self._means.progress.forget(ident)  # its record was never written, or was lost
                return
            job = Job(batch, self._files, self._means, self._most_bytes)
            self._jobs[ident] = (self._jobs[ident][0], job)
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
            del self._jobs[ident]
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
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _still_ours(self, ident: str, job: Job) -> bool:
        """Renew the lease, and see whether another process was told to cancel the batch."""
        if not await self._leases.hold(ident):
            return False
        batch = await self._means.progress.read(ident)
        if batch is not None and "cancelling_at" in batch.facts:
            job.stop()
        return batch is not None
