"""Runs the service: on a local Ray, or on a cluster."""

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

from .access.keys import check_exposure
from .dedicated import check_importable
from .options import room_beside
from .session import ray_session
from .settings import Settings
from .worker import Build

NAME = "symmoe"
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_START_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: its address, and the handle of its ingress."""

    url: str
    handle: Any
    began: float

    def wait_until_ready(self, stopped: Callable[[], bool] = lambda: False, most: float = _START_SECONDS) -> float:
        """Wait until the first expert can answer, or `stopped` is set; returns seconds since the start of the service.

        Raises `EngineError` after `most` seconds, or if Ray Serve gives up.
        """
        while not stopped() and (state := _state()).status != "RUNNING":
            if state.status == "DEPLOY_FAILED":
                lines = (state.message.strip() or "no reason given").splitlines()
                raise EngineError(f"Ray Serve did not start the service: {lines[-1]}", hint="look into Ray's logs")
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
    without_token: bool = False,
) -> Iterator[Served]:
    """Serve a pool during the block. At its end open requests are finished, and new ones turned away.

    It runs on a local Ray, or on the cluster at `address`, and ends with the block on both. With `keys` every request
    needs one that the store knows. A cluster that requires no token is refused unless `without_token`.

    Raises `JobError` if it would be open to other machines without keys, the port is taken, or the cluster has such a
    service already, and `EngineError` if it does not start.
    """
    began = time.monotonic()
    check_exposure(host, keys, address)
    if address is None:
        _check_port(host, port)
        if any(expert.dedicated is not None for expert in pool.experts):
            check_importable()
    with ray_session(settings.replicas, address, room_beside(pool, settings), without_token):
        from .app import service_app

        with _serve(host, port, address is not None) as netloc:
            app = service_app(pool, settings, keys, build, admin=not keys)  # which is on loopback then
            handle = _run(app)
            yield Served(f"http://{netloc}", handle, began)
            if _state().status not in ("DEPLOYING", "DEPLOY_FAILED"):  # else nobody was let in
                handle.drain.remote(settings.grace).result(timeout_s=settings.grace + 10)


@contextmanager
def _serve(host: str, port: int, shared: bool) -> Iterator[str]:
    """Ray Serve as long as the block lasts; where it listens. On a `shared` cluster what was there before stays."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing it has set another
    controller = _controller() if shared else None
    if controller is not None and NAME in serve.status().applications:
        raise JobError(
            f"that cluster has an application {NAME!r} already", hint="stop it first: two would take each other's place"
        )
    serve.start(http_options={"host": host, "port": port}, logging_config=_QUIET)
    try:
        yield f"{_in_url(host)}:{port}" if controller is None else _listening(controller)
    finally:
        if shared:
            serve.delete(NAME)
        if controller is None and not (shared and serve.status().applications):
            serve.shutdown()


def _controller() -> Any:
    """That of a Ray Serve which somebody started on the cluster before; None where nobody has."""
    import ray

    try:
        return ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None


def _listening(controller: Any) -> str:
    """Where a Ray Serve listens on each of its machines."""
    import ray

    options = ray.get(controller.get_http_config.remote())
    return f"{_in_url(str(options.host))}:{options.port}"


def _run(app: Any) -> Any:
    """The handle of the ingress, which is not waited for: Ray Serve waits for engines, and cannot be interrupted."""
    from ray import serve

    target = serve.RunTarget(app, name=NAME, route_prefix="/", logging_config=_QUIET)
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    return handle


def _state() -> Any:
    """What Ray Serve says of the service: `status` and `message`."""
    from ray import serve

    return serve.status().applications[NAME]


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
    except OSError as error:
        raise JobError(
            f"{host}:{port} cannot be used: {error.strerror or error}", hint="choose another --port"
        ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
