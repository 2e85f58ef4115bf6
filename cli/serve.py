"""`symmoe serve`: serve a pool with an OpenAI-compatible API."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Literal

import typer

from . import options


def serve(
    pool: options.Pool = "starter",
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 127.0.0.1: only this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option("--replicas", min=1, max=256, help="Engines that run in parallel.")] = 1,
    least: Annotated[
        int | None, typer.Option("--least", min=0, max=256, help="Scale down to so many engines; default: always all.")
    ] = None,
    idle: Annotated[
        float,
        typer.Option("--idle", metavar="SECONDS", min=1, max=1e7, help="With --least: stop engines idle so long."),
    ] = 600.0,
    address: Annotated[
        str | None,
        typer.Option("--address", help="A running Ray cluster, HOST:PORT; implies --keys. Default: Ray starts here."),
    ] = None,
    without_ray_token: options.WithoutRayToken = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Require API keys on loopback too; elsewhere they are always required.")
    ] = False,
    cache: Annotated[
        float,
        typer.Option(
            "--cache", metavar="SECONDS", min=0, max=1e7, help="Cache answers to equal requests of a key for so long."
        ),
    ] = 0.0,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", metavar="URL", help="An origin allowed by CORS, or *; repeatable.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields that have no effect, instead of naming them.")
    ] = False,
    image_urls: Annotated[
        bool, typer.Option("--image-urls", help="Fetch images given by URL, only from public addresses.")
    ] = False,
    batch_lines: Annotated[
        int, typer.Option("--batch-lines", min=1, max=1_000_000, help="Lines of a batch's file, at most.")
    ] = 50_000,
    log: Annotated[
        Literal["none", "json"], typer.Option("--log", help="json: write a line about every request to stderr.")
    ] = "none",
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Put prompts into these lines and into traces.")
    ] = False,
    traces: Annotated[
        Literal["off", "metadata", "text"],
        typer.Option("--traces", help="What to keep of each request for a week: nothing, metadata, or also texts."),
    ] = "metadata",
    console: Annotated[bool, typer.Option(help="Serve the web console at /console.")] = True,
    json: options.Json = False,
) -> None:
    """Serve the pool to OpenAI clients until Ctrl-C or SIGTERM, then finish open requests."""
    from symmoe.deployments.access.keys import is_loopback
    from symmoe.deployments.serving import serving
    from symmoe.deployments.settings import Settings
    from symmoe.deployments.telemetry.logs import relayed

    from symmoe.errors import ConfigError

    from .render import show, show_json, tell, working

    if least is not None and least > replicas:
        raise ConfigError(f"--least {least} is more than --replicas {replicas}", hint="give a larger --replicas")
    needs_keys = keys or address is not None or not is_loopback(host)
    if needs_keys:
        _check_keys(f"the cluster at {address}" if address else host)
    config = options.ready(pool)
    with ExitStack() as running:
        with working(f"starting {config.name}"):
            # on a cluster, lines are written where the ingress runs
            lines = running.enter_context(relayed(sys.stderr)) if log == "json" and address is None else None
            settings = Settings(
                replicas=replicas,
                least=least,
                idle=idle,
                cache_seconds=cache,
                origins=tuple(origin or ()),
                strict=strict,
                image_urls=image_urls,
                most_batch_lines=batch_lines,
                log=log,
                log_file=lines,
                log_prompts=log_prompts,
                traces=traces,
                console=console,
            )
            served = running.enter_context(
                serving(config, settings, host, port, address, needs_keys, without_token=without_ray_token)
            )
            stop = running.enter_context(_stopping())  # after Ray has set its own signal handlers
            seconds = served.wait_until_ready(stop.is_set)
        if json:
            show_json({"url": f"{served.url}/v1", "pool": config.name, "seconds": round(seconds, 1)})
        elif not stop.is_set():
            pages = f"; console at {served.url}/console" if console else ""
            show(
                f"{config.name} is ready at {served.url}/v1 after {seconds:.0f} s{pages}; try:",
                _example(served.url, needs_keys),
            )
        sys.stdout.flush()
        while not stop.wait(3600):
            pass
        tell("finishing open requests")


def _check_keys(where: str) -> None:
    """Raise `JobError` if no key is active: a service that requires keys could serve nobody."""
    import time

    from symmoe.deployments.access.keys import everyone

    from symmoe.errors import JobError

    from .key import with_store

    if not any(record.state(time.time()) == "active" for record in with_store(everyone)):
        raise JobError(
            f"a service on {where} requires keys, and there are none", hint="create one: `symmoe key create NAME`"
        )


def _example(url: str, keys: bool) -> str:
    key = " -H 'authorization: Bearer KEY'" if keys else ""
    return (
        f"curl {url}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
        '  -d \'{"model": "symmoe/auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}\''
    )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one raises `KeyboardInterrupt`."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def request_stop(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in numbers:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
