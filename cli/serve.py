"""`symmoe serve`: the pool behind one OpenAI-compatible address."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from . import options


def serve(
    pool: options.Pool = "starter",
    host: Annotated[str, typer.Option("--host", help="Where to listen; 127.0.0.1 is for this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Which port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=256, help="Engines that run side by side.")] = 1,
    address: Annotated[
        str | None, typer.Option("--address", help="A running Ray cluster, HOST:PORT; else Ray starts here.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Serve the pool to OpenAI clients until Ctrl-C or SIGTERM; open requests are finished first."""
    from symmoe.deployments.api.keys import Open, check_exposure
    from symmoe.deployments.serving import serving
    from symmoe.deployments.settings import Settings

    from symmoe.build import check_weights
    from symmoe.config import read_pool

    from .render import show, show_json, tell, working

    check_exposure(host, Open())
    described = read_pool(pool)
    check_weights(described)
    with ExitStack() as running:
        with working(f"starting {described.name}"):
            served = running.enter_context(serving(described, Settings(replicas=replicas), host, port, address))
            stop = running.enter_context(_stopping())  # only now: Ray sets signal handlers of its own
            seconds = served.wait_until_ready(stop.is_set)
        if json:
            show_json({"url": f"{served.url}/v1", "pool": described.name, "seconds": round(seconds, 1)})
        elif not stop.is_set():
            show(f"{described.name} is ready at {served.url}/v1 after {seconds:.0f} s; try:", _example(served.url))
        sys.stdout.flush()
        while not stop.wait(3600):
            pass
        tell("finishing open requests")


def _example(url: str) -> str:
    return (
        f"curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        '  -d \'{"model": "symmoe/auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}\''
    )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; a second one interrupts whatever is going on."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in numbers:
        signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
