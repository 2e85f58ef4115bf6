"""A service in a process of its own, to be killed: `python -m tests.deployments.batches.process FOLDER [SECONDS]`.

Prints its port. Its engine takes so long for a step, and keeps a record of what it was asked in the file `asked`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvicorn
from symmoe.deployments.access.keys import Open
from symmoe.deployments.api.application import application
from symmoe.deployments.api.service import Service
from symmoe.deployments.expert import ExpertReplica
from symmoe.deployments.experts import LocalExperts
from symmoe.deployments.orchestrator import Orchestrator
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.types import Delta, Prompt, Query, Refusal
from tests.conftest import echo_pool
from tests.deployments.api.conftest import assembled


class SlowEngine(EchoEngine):
    """Takes so many seconds for each step."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(window=64)
        self._folder, self._seconds = folder, seconds

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        with (self._folder / "asked").open("a", encoding="utf-8") as file:
            file.write(f"{query.text}\n")
        return super().add(ident, query, stream)

    def step(self) -> list[Delta]:
        time.sleep(self._seconds)
        return super().step()


async def serve(folder: Path, seconds: float) -> None:
    settings = Settings(batch_lease=1.0, batch_lines_open=512)
    pool = read_pool(str(echo_pool(folder, engine={"max_num_seqs": 16 if seconds else 256})))
    engine = SlowEngine(folder, seconds)
    replica = ExpertReplica(pool, settings, lambda pool: assembled(pool, engine))
    experts = LocalExperts(replica)
    orchestrator = Orchestrator(assembled(pool), experts, settings)
    service = Service(pool, orchestrator, Open(), settings, Storage())
    server = uvicorn.Server(uvicorn.Config(application(service), port=0, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await serving


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.01))
