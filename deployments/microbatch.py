"""Works on requests that arrive together in one batch, in a thread; a single one is not delayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_PART = 4
_PASSED_OVER = 8


class MicroBatch(Generic[Item, Result]):
    """Calls `work` with what arrived during its last call: the busier, the larger the batches, `most` at most.

    Background items wait for all others. They come in smaller batches, a quarter of `most`, so that items arriving
    meanwhile do not wait long; passed over eight times in a row, they are taken along. A batch that fails is retried
    item by item, so that a bad item fails only itself. Work that must not run concurrently is given a single `thread`.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        most: int = 64,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._work, self._most, self._part = work, most, max(1, most // _PART)
        self._thread = thread or ThreadPoolExecutor(1, "batch")
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._background: list[tuple[Item, asyncio.Future[Result]]] = []
        self._passed_over = 0
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item, background: bool = False) -> Result:
        """The result for one item."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        (self._background if background else self._waiting).append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._go_on())
        return await future

    async def _go_on(self) -> None:
        while self._waiting or self._background:
            batch = [(item, future) for item, future in self._next() if not future.cancelled()]
            if batch:
                await self._run(batch)

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Take out the next batch."""
        turn = not self._waiting or self._passed_over >= _PASSED_OVER
        part = self._part if turn else 0
        self._passed_over = self._passed_over + 1 if self._background and not turn else 0
        room = self._most - min(part, len(self._background))
        batch, self._waiting = self._waiting[:room], self._waiting[room:]
        batch += self._background[:part]
        self._background = self._background[part:]
        return batch

    async def _run(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    await self._run([each])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
