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

    from .render import show, show_json

    where = "REDIS_URL" if os.environ.get("REDIS_URL") else str(embedded_socket())
    facts = open_store().ping() | {"where": where}
    if json:
        show_json(facts)
        return
    show(f"{facts['server']} {facts['version']} at {facts['where']}")


@app.command("stop")
def stop(json: options.Json = False) -> None:
    """Stop the embedded store; its data stays on disk."""
    from symmoe.store import stop_embedded

    from .render import show, show_json

    stopped = stop_embedded()
    if json:
        show_json({"stopped": stopped})
        return
    show("stopped" if stopped else "it was not running")
