"""Running the service: on a Ray of its own, or on a cluster."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.errors import EngineError, JobError

from .api.keys import check_exposure
from .session import ray_session
from .settings import Settings
from .worker import Build

NAME = "symmoe"
_START_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A service that runs: where it is, and the handle of its ingress."""

    url: str
    handle: Any
    began: float

    def wait_until_ready(self, stopped: Callable[[], bool] = lambda: False, most: float = _START_SECONDS) -> float:
        """Wait until the first expert can answer, or the wait is `stopped`; seconds since the start of the service.

        Raises `EngineError` after `most` seconds.
        """
        while not stopped() and self.handle.readiness.remote().result(timeout_s=most) != "ready":
            if time.monotonic() - self.began > most:
                raise EngineError(f"no expert was ready within {most:.0f} s", hint="look into the engine's log")
            time.sleep(0.1)
        return time.monotonic() - self.began


@contextmanager
def serving(
    pool: Pool,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    address: str | None = None,
    keys: bool = False,
    build: Build = Assembly,
) -> Iterator[Served]:
    """Serve a pool as long as the block lasts. At its end open requests are finished, new ones turned away.

    On a Ray of its own, or on the cluster at `address`, where the service stays only as long as the block does too.
    With `keys` everybody needs one that the store knows.
    Raises `JobError` where it would be open to other machines without keys, or the port is taken.
    """
    began = time.monotonic()
    check_exposure(host, keys)
    if address is None:
        _check_port(host, port)
    with ray_session(settings.replicas, address):
        from ray import serve

        from .app import service_app

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        try:
            app = service_app(pool, settings, keys, build, admin=not keys)  # which is on loopback then
            handle = serve.run(app, name=NAME, route_prefix="/", logging_config=quiet)
            yield Served(f"http://{_in_url(host)}:{port}", handle, began)
            handle.drain.remote(settings.grace).result(timeout_s=settings.grace + 10)
        finally:
            serve.delete(NAME) if address else serve.shutdown()


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise JobError(
            f"{host}:{port} cannot be used: {error.strerror or error}", hint="choose another --port"
        ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
