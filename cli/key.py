"""`symmoe key`: who may ask a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.deployments.access.keys import KeyRecord
    from symmoe.deployments.storage import Storage

Result = TypeVar("Result")
_DAY, _HOUR = 86_400.0, 3600.0


app = typer.Typer(help="Make, list, rotate and revoke the keys of a service.", no_args_is_help=True)


def with_store(work: Callable[[Storage], Awaitable[Result]]) -> Result:
    """What `work` gives with the store of `REDIS_URL`, or the embedded one. Raises `StoreError`."""
    import asyncio

    from symmoe.deployments.storage import Storage

    async def working() -> Result:
        storage = Storage()
        try:
            return await work(storage)
        finally:
            await storage.close()

    return asyncio.run(working())


def existing(record: KeyRecord | None) -> KeyRecord:
    """The record of a key that there is. Raises `ConfigError`."""
    from symmoe.errors import ConfigError

    if record is None:  # what was given is not repeated: it may be a key
        raise ConfigError("no key has that id", hint="`symmoe key list` shows the ids")
    return record


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people; it need not be unique.")],
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, max=10**9, help="Most requests; else no limit.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens-per-minute", min=1, max=10**12, help="Most tokens, prompts and answers; else no limit."),
    ] = None,
    expires: Annotated[
        float | None, typer.Option("--expires", metavar="DAYS", min=0.001, max=36_500, help="Days until it ends.")
    ] = None,
    scope: Annotated[
        Literal["ask", "admin"],
        typer.Option("--scope", help="admin: besides asking, change experts and keys, and see everybody's traces."),
    ] = "ask",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="AMOUNT", min=0, max=1e12, help="Most that it may spend, in the pool's currency."
        ),
    ] = None,
    per: Annotated[
        Literal["day", "month", "ever"],
        typer.Option("--budget-per", help="How long the budget is for; days and months of UTC."),
    ] = "month",
    json: options.Json = False,
) -> None:
    """Make a key and show it, this once: the store keeps its SHA-256 only."""
    import time

    from symmoe.deployments.access.keys import KeyRecord, add, checked_name, new_id, new_key

    from .render import show, show_json

    key, now = new_key(), time.time()
    ends = None if expires is None else now + expires * _DAY
    limits = requests, tokens
    record = KeyRecord(new_id(), checked_name(name), now, ends, None, *limits, scope == "admin", budget, per)
    with_store(lambda storage: add(storage, key, record))
    if json:
        show_json({"key": key, **record.facts(now)})
        return
    show(key, f"{record.id} ({record.name}): send it as `Authorization: Bearer KEY`. It is not shown again.")


@app.command("list")
def list_keys(json: options.Json = False) -> None:
    """List every key by its id; the keys themselves are known to nobody here."""
    import time

    from symmoe.deployments.access.keys import everyone

    from .render import show, show_json, table

    now = time.time()
    facts = [record.facts(now) for record in with_store(everyone)]
    if json:
        show_json(facts)
        return
    columns = ("id", "name", "state", "expires", "requests_per_minute", "tokens_per_minute", "budget")
    rows = []
    for each in facts:
        admin = (each["state"], each["scope"]) == ("active", "admin")
        shown = {**each, "state": "active, admin" if admin else each["state"]}
        if each["budget_per"] not in (None, "ever"):
            shown["budget"] = f"{each['budget']:g} a {each['budget_per']}"
        rows.append(["-" if shown[column] is None else shown[column] for column in columns])
    show(table("Keys", [column.replace("_per_minute", "/min") for column in columns], rows, right=(4, 5, 6)))


@app.command("rotate")
def rotate(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `symmoe key list` shows it.")],
    overlap: Annotated[
        float,
        typer.Option("--overlap", metavar="HOURS", min=0, max=8_760, help="Hours for which the old one is good, too."),
    ] = 24,
    json: options.Json = False,
) -> None:
    """Put a new key in another's place: its files, batches, usage, limits and budget stay with their owner."""
    import time

    from symmoe.deployments.access.keys import new_key
    from symmoe.deployments.access.keys import rotate as rotate_in

    from .render import show, show_json

    key, now = new_key(), time.time()
    record = existing(with_store(lambda storage: rotate_in(storage, ident, key, now, overlap * _HOUR)))
    if json:
        show_json({"key": key, **record.facts(now)})
        return
    old_key_state = f"is good for {overlap:g} h more" if overlap else "is good no more"
    show(key, f"{record.id} ({record.name}) in the place of {ident}, which {old_key_state}. It is not shown again.")


@app.command("revoke")
def revoke(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `symmoe key list` shows it.")],
    json: options.Json = False,
) -> None:
    """Revoke a key for good; services refuse it within a second or two."""
    import time

    from symmoe.deployments.access.keys import revoke as revoke_in

    from .render import show, show_json

    now = time.time()
    record = existing(with_store(lambda storage: revoke_in(storage, ident, now)))
    if json:
        show_json(record.facts(now))
        return
    show(f"{record.id} ({record.name}) is revoked")
