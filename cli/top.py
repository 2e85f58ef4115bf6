"""`symmoe top`: watch a running service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .service import DEFAULT_URL, Key, request

if TYPE_CHECKING:
    from symmoe.deployments.watching import View

_STYLES = {"active": "green", "draining": "yellow", "quarantined": "red"}


def top(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The address of the service.")] = DEFAULT_URL,
    key: Key = None,
    seconds: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, max=3600, help="Time between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one look and exit.")] = False,
    json: options.Json = False,
) -> None:
    """Watch a service: its experts, engines, switches and requests. --json shows one look and exits.

    Reads /metrics, and /v1/admin/experts if the key is allowed to. Counts are since the service started.
    """
    from .render import live, show, show_json

    seen, found = time.monotonic(), look(url, key)
    if json:
        show_json(found.as_json())
        return
    if once:
        show(*_drawn(url, found, None))
        return
    with live(_drawn(url, found, None)) as redraw:
        while True:
            time.sleep(seconds)
            before, at, seen = found, seen, time.monotonic()
            found = look(url, key)
            redraw(_drawn(url, found, (before, seen - at)))


def look(url: str, key: str | None) -> View:
    """The state of a service. Raises `ConfigError` if nothing answers, `RequestError` if it is not a symmoe service."""
    from symmoe.deployments.watching import view

    from symmoe.errors import RequestError

    text = request("GET", url, "/metrics", None)
    try:
        admin = request("GET", url, "/v1/admin/experts", key)
    except RequestError as error:
        if error.code not in ("not_admin", "invalid_api_key", "cross_site"):
            raise
        admin = None
    try:
        return view(text, admin)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RequestError(f"what answers at {url} is not a symmoe service", code="no_service") from error


def _drawn(url: str, now: View, before: tuple[View, float] | None) -> list[Any]:
    return [_head(url, now, before), _experts(now), _engines(now), _switches(now), _latencies(now)]


def _head(url: str, now: View, before: tuple[View, float] | None) -> str:
    done = sum(now.requests.values())
    rates = ""
    if before is not None:
        then, seconds = before
        requests = (done - sum(then.requests.values())) / seconds
        rates = f" · {requests:.1f} requests/s · {(now.tokens - then.tokens) / seconds:.0f} tokens/s"
    statuses = ", ".join(f"{count} x {status}" for status, count in now.requests.items())
    answers = ", ".join(f"{count} {path}" for path, count in now.answers.items())
    more = f" · {now.rerouted} rerouted" if now.rerouted else ""
    aggregator = ", ".join(f"{what} {count} times" for what, count in now.aggregator.items())
    lines = [f"{url} · {now.open} open · {done} requests{f' ({statuses})' if statuses else ''}{rates}"]
    lines += [f"answers: {answers}{more}"] if answers else []
    lines += [f"aggregator: {aggregator}"] if aggregator else []
    return "\n".join(lines)


def _experts(now: View) -> Any:
    from .render import coloured, table

    columns = ("expert", "state", "run/wait/open", "answers", "tokens", "loads", "load s", "fails")
    rows = [
        (
            each.name,
            coloured(each.state, _STYLES.get(each.state, "")),
            f"{each.running}/{each.waiting}/{each.open}",
            each.generations,
            each.completion_tokens,
            each.loads,
            f"{each.load_seconds:.1f}",
            each.failures,
        )
        for each in now.experts
    ]
    return table("Experts", columns, rows, right=tuple(range(2, len(columns))))


def _engines(now: View) -> Any:
    from .render import table

    rows = [
        (number, each["expert"] or "-", each["loading"] or "", each["running"], sum(each["waiting"].values()))
        for number, each in enumerate(now.engines)
    ]
    return table("Engines", ("engine", "expert", "loading", "run", "wait"), rows, right=(0, 3, 4))


def _switches(now: View) -> Any:
    from .render import table

    rows = [(lane, count, f"{seconds:.2f}") for lane, (count, seconds) in now.lanes.items()]
    return table("Experts made ready", ("lane", "times", "s"), rows, right=(1, 2))


def _latencies(now: View) -> Any:
    from .render import table

    rows = [(name.replace("_", " "), *map(_ms, pair)) for name, pair in now.latencies.items()]
    return table("Times, estimated", ("what", "p50 ms", "p95 ms"), rows, right=(1, 2))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"
