"""The whole service over one engine in this process, without Ray: for what cannot be changed from outside."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from symmoe.config import Pool
from symmoe.errors import EngineError
from symmoe.planning.turns import Turns

from ..api.application import application
from ..api.keys import Open
from ..api.service import Service
from ..expert import ExpertReplica, MakeTurns
from ..experts import LocalExperts
from ..orchestrator import Orchestrator
from ..settings import Settings
from ..storage import Storage
from ..worker import Build
from .services import Side, free_port

_STOP_SECONDS = 10.0


@contextmanager
def serving_here(pool: Pool, settings: Settings, build: Build, turns: MakeTurns = Turns) -> Iterator[Side]:
    """Serve a pool to this machine while the block lasts. Raises `EngineError` if the server does not start."""
    import uvicorn

    replica = ExpertReplica(pool.model_dump_json(), str(pool.root), settings, build, turns)
    storage, experts, port = Storage(), LocalExperts(replica), free_port()
    service = Service(pool, Orchestrator(build(pool), experts, settings), Open(), settings, storage)
    server = uvicorn.Server(uvicorn.Config(application(service), port=port, log_config=None, lifespan="on"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()), daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            if not thread.is_alive():
                raise EngineError("the service to measure did not start")
        yield Side("symmoe", f"http://127.0.0.1:{port}", os.getpid())
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        server.force_exit = True  # who still waits for an answer waits no more
        thread.join(_STOP_SECONDS)
        replica.stop()
        if not thread.is_alive():
            loop.run_until_complete(storage.close())
            loop.close()
