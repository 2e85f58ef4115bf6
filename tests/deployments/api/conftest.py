"""A service in this process, without Ray: the whole application over one engine, on a port of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from starlette.types import ASGIApp
from symmoe.deployments.access.keys import Keys, Open
from symmoe.deployments.api.application import application
from symmoe.deployments.api.service import Service
from symmoe.deployments.console.console import Console
from symmoe.deployments.door.connection import Connection
from symmoe.deployments.door.proxy import Door
from symmoe.deployments.expert import ExpertReplica
from symmoe.deployments.experts import Experts, LocalExperts
from symmoe.deployments.orchestrator import Orchestrator
from symmoe.deployments.remote import PoolExperts
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe import limits
from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.engines.readers import Reader
from symmoe.errors import EngineError
from symmoe.types import Delta, Image, Prompt, Query, Refusal
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, ScatteringEmbedder

EXPERTS = ("adder", "speaker", "sorter", "broken")


class ScriptedEngine(EchoEngine):
    """An echo engine that does what its prompts say: `hold` gives one word and waits, `crash` fails the first time.

    The expert `broken` cannot be made ready.
    """

    def __init__(self, window: int = 64) -> None:
        super().__init__(window)
        self.held: set[str] = set()
        self.released = threading.Event()
        self.aborted = threading.Event()
        self.crashed = False
        self.asked: list[Query] = []
        self._prompts: dict[str, str] = {}

    def forget(self) -> None:
        """Keep nothing of what was asked so far."""
        self.asked.clear()
        self._prompts.clear()

    def swap(self, image: Image) -> int:
        if Path(image.key).name == "broken":
            raise EngineError("its weights are broken", hint="mend them")
        return super().swap(image)

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        self._prompts[ident] = query.text
        self.asked.append(query)
        return super().add(ident, query, stream)

    def step(self) -> list[Delta]:
        if not self.crashed and any("crash" in self._prompts[ident] for ident in self._open):
            self.crashed = True
            raise RuntimeError("a native library said no")
        held = {ident: self._open.pop(ident) for ident in self.held & self._open.keys() if not self.released.is_set()}
        deltas = super().step()
        self._open |= held
        self.held |= {ident for ident in self._open if "hold" in self._prompts[ident]}
        if held and not deltas:
            self.released.wait(0.002)
        return deltas

    def abort(self, idents: Sequence[str]) -> None:
        if any(ident in self._open for ident in idents):
            self.aborted.set()
        super().abort(idents)


# a server looks ten times a second whether it is to end, and then sleeps for a tenth of one: hundreds are started here
uvicorn.server.asyncio = SimpleNamespace(  # type: ignore[attr-defined]
    **{**vars(asyncio), "sleep": lambda seconds: asyncio.sleep(min(seconds, 0.01))}
)
PATIENCE = 120.0
"""Seconds until what should come is taken to be lost; a busy machine is slow, and waiting is not measured."""


def until(condition: Callable[[], object], *despite: type[Exception]) -> None:
    """Wait until something holds that no event tells of; errors of these kinds mean that it does not yet."""
    ends = time.monotonic() + PATIENCE
    while True:
        with suppress(*despite):
            if condition():
                return
        assert time.monotonic() < ends, "it never came about"
        time.sleep(0.01)


@dataclass
class Running:
    """A service that runs, and what is behind it."""

    url: str
    engine: ScriptedEngine
    service: Service
    replica: ExpertReplica
    loop: asyncio.AbstractEventLoop
    app: ASGIApp

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def post(self, path: str = "/v1/chat/completions", **options: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=PATIENCE, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE, **options)  # type: ignore[arg-type]

    def delete(self, path: str, **options: object) -> httpx.Response:
        return httpx.delete(f"{self.url}{path}", timeout=PATIENCE, **options)  # type: ignore[arg-type]

    def send(self, method: str, path: str, **options: object) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=PATIENCE, **options)  # type: ignore[arg-type]

    def metric(self, line: str) -> float:
        """The value of a metric by its name and labels, 0 if it is not there."""
        found = [row for row in self.get("/metrics").text.splitlines() if row.startswith(f"{line} ")]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    def until(self, line: str, value: float) -> None:
        """Wait until a metric has a value."""
        until(lambda: self.metric(line) == value)


def assembled(pool: Pool, engine: EchoEngine | None = None) -> Assembly:
    """The pool's parts with a tagger and an embedder that need no model."""
    assembly = Assembly(pool, tagger=NamingTagger(*SKILLS), embedder=ScatteringEmbedder())
    if engine is not None:
        assembly.engine = engine
    return assembly


@contextmanager
def running(
    folder: Path,
    settings: Settings,
    keys: Keys | None = None,
    storage: Storage | None = None,
    remembers: bool = False,
    first: str | None = EXPERTS[0],
    door: bool = False,
    experts: Sequence[str] = EXPERTS,
    by: ScriptedEngine | None = None,
    reader: Reader | None = None,
    pool: Pool | None = None,
    real: bool = False,
    console: bool = False,
    through: Callable[[Experts], Experts] = lambda experts: experts,
    **sections: object,
) -> Iterator[Running]:
    """Serve a pool, if none is given of echoes, under a free port; what is decided about experts it `remembers`.

    The expert that is `first` is made ready before anybody asks. With a `door` the same stands before it as before
    Ray Serve's proxy. With `real` the pool's own engine and tagger are used. Experts are asked `through` what is said.
    """
    storage = storage or Storage()
    pool = pool or read_pool(str(echo_pool(folder, tuple(experts), **sections)))
    engine = by or ScriptedEngine()

    def build(pool: Pool) -> Assembly:
        made = Assembly(pool) if real else assembled(pool, engine)
        made.reader = lambda expert: reader  # type: ignore[method-assign]
        return made

    replica = ExpertReplica(pool, settings, build, first=lambda pool: first)
    local = LocalExperts(replica)
    reached = PoolExperts(pool, local) if any(expert.remote for expert in pool.experts) else local
    orchestrator = Orchestrator(build(pool), through(reached), settings, storage if remembers else None)
    with pytest.MonkeyPatch.context() as patch:  # a busy machine is no sign of a store that is lost
        patch.setattr(limits, "STORE_PATIENCE", PATIENCE)
        service = Service(pool, orchestrator, keys or Open(), settings, storage)
    app = Console(application(service), service) if console else application(service)
    app = Door(app) if door else app
    http: Any = Connection if door else "auto"
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", http=http))
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        await server.serve()
        await storage.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", engine, service, replica, loop, app)
    finally:
        engine.released.set()
        server.should_exit = True
        thread.join(20)
        loop.close()
        replica.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service for all tests of a module that leave it as it was."""
    settings = Settings(most_choices=4, quarantine_after=0)
    with running(
        tmp_path_factory.mktemp("pool"), settings, routing={"top_p": 0.9}, aggregation={"trust": 0.6}
    ) as service:
        yield service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A service of a test's own."""
    with running(tmp_path, Settings(most_waiting=2, most_open=6), engine={"max_num_seqs": 1}) as service:
        yield service
