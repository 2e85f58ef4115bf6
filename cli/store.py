"""`symmoe store`: status of the store, and stopping the embedded one."""

from __future__ import annotations

import typer

from . import options

app = typer.Typer(help="Show the store, or stop the embedded one.", no_args_is_help=True)


@app.command("status")
def status(json: options.Json = False) -> None:
    """Show which store is used; starts the embedded one if REDIS_URL is not set."""
    import os

    from symmoe.store import embedded_socket, open_store

    from .render import show_result

    where = "REDIS_URL" if os.environ.get("REDIS_URL") else str(embedded_socket())
    facts = open_store().ping() | {"where": where}
    show_result(json, facts, f"{facts['server']} {facts['version']} at {facts['where']}")


@app.command("stop")
def stop(json: options.Json = False) -> None:
    """Stop the embedded store; its data stays on disk."""
    from symmoe.store import stop_embedded

    from .render import show_result

    stopped = stop_embedded()
    show_result(json, {"stopped": stopped}, "stopped" if stopped else "it was not running")
