"""Wires up files, batches and the runner, which lives as long as the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI

from symmoe.config import files_dir

from ..batches.answering import BatchMetrics, BatchResources, Window
from ..batches.batches import Batches
from ..batches.files import Contents, Files
from ..batches.progress import Progress
from ..batches.quota import Grants, OverQuotaError, Quota
from ..batches.runner import Leases, Runner
from ..batches.segments import Segments
from ..errors import ApiError
from .batch_lines import LineAnswers
from .open_requests import Online
from .service import Service

_SHARE = 8
"""While online requests are there, one in so many of the lines that a batch may have open."""


@contextmanager
def quota_errors(param: str) -> Iterator[None]:
    """Raise `ApiError` for `OverQuotaError`: 413, since asking again changes nothing."""
    try:
        yield
    except OverQuotaError as error:
        raise ApiError(413, "file_quota_exceeded", str(error), param) from error


class Batching:
    """Files, batches and their runner for one service."""

    def __init__(self, service: Service) -> None:
        storage, settings = service.storage, service.settings
        self._service = service
        self.online = Online()
        self.settings = settings
        self.metrics = BatchMetrics(service.metrics.registry)
        self.files = Files(storage, Contents(files_dir()))
        self.batches = Batches(storage, settings)
        self.quota = Quota(self.files, self.batches, settings.most_files, settings.most_files_bytes)
        resources = BatchResources(
            LineAnswers(service),
            Progress(storage, Segments(files_dir() / "rows"), settings),
            Window(self._room, settings.batch_bytes_open),
            self.metrics,
            service.telemetry.finish,
            service.line_admitted,
            Grants(self.quota.left),
        )
        leases = Leases(storage, settings.batch_lease)
        self.runner = Runner(self.files, leases, resources, settings)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The runner works as long as the application does."""
        self.runner.start()
        try:
            yield
        finally:
            await self.runner.close()

    def _room(self) -> int:
        """How many lines may be open now; none once the service is stopping."""
        if self._service.open.draining:
            return 0
        most = self.settings.batch_lines_open
        return max(1, most // _SHARE) if self.online.busy else most
