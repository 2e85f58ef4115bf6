"""`symmoe key`: who may ask a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.deployments.access.records import KeyRecord
    from symmoe.deployments.storage import Storage

Result = TypeVar("Result")
_DAY = 86_400.0


app = typer.Typer(help="Make, list and revoke the keys of a service.", no_args_is_help=True)


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
    admin: Annotated[
        bool, typer.Option("--admin", help="With it experts may be added, drained, quarantined and removed.")
    ] = False,
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

    from symmoe.deployments.access.records import KeyRecord, add, new_id, new_key

    from .render import show, show_json

    key, now = new_key(), time.time()
    ends = None if expires is None else now + expires * _DAY
    limits = requests, tokens
    record = KeyRecord(new_id(), _named(name), now, ends, None, *limits, admin, budget, per)
    with_store(lambda storage: add(storage, key, record))
    if json:
        show_json({"key": key, **_facts(record, now)})
        return
    show(key, f"{record.id} ({record.name}): send it as `Authorization: Bearer KEY`. It is not shown again.")


@app.command("list")
def list_keys(json: options.Json = False) -> None:
    """List every key by its id; the keys themselves are known to nobody here."""
    import time

    from symmoe.deployments.access.records import everyone

    from .render import show, show_json, table

    now = time.time()
    facts = [_facts(record, now) for record in with_store(everyone)]
    if json:
        show_json(facts)
        return
    columns = ("id", "name", "state", "expires", "requests_per_minute", "tokens_per_minute", "budget")
    rows = [["-" if each[column] is None else each[column] for column in columns] for each in facts]
    for row, each in zip(rows, facts, strict=True):
        row[-1] = row[-1] if each["budget_per"] in (None, "ever") else f"{row[-1]:g} a {each['budget_per']}"
    show(table("Keys", [column.replace("_per_minute", "/min") for column in columns], rows, right=(4, 5, 6)))


@app.command("revoke")
def revoke(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `symmoe key list` shows it.")],
    json: options.Json = False,
) -> None:
    """Revoke a key for good; services refuse it within a second or two."""
    import time

    from symmoe.deployments.access.records import revoke as revoke_in

    from symmoe.errors import ConfigError

    from .render import show, show_json

    now = time.time()
    record = with_store(lambda storage: revoke_in(storage, ident, now))
    if record is None:  # what was given is not repeated: it may be a key
        raise ConfigError("no key has that id", hint="`symmoe key list` shows the ids")
    if json:
        show_json(_facts(record, now))
        return
    show(f"{record.id} ({record.name}) is revoked")


def _named(name: str) -> str:
    from symmoe.deployments.access.records import PREFIX

    from symmoe.errors import ConfigError

    name = name.strip()
    if not 0 < len(name) <= 100 or not name.isprintable() or PREFIX in name:
        raise ConfigError("that is no name for a key", hint="give 1 to 100 printable characters, and no key")
    return name


def _facts(record: KeyRecord, now: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state(now),
        "created": _date(record.created),
        "expires": None if record.expires is None else _date(record.expires),
        "revoked": None if record.revoked is None else _date(record.revoked),
        "requests_per_minute": record.requests_per_minute,
        "tokens_per_minute": record.tokens_per_minute,
        "admin": record.admin,
        "budget": record.budget,
        "budget_per": record.budget_per if record.budget is not None else None,
    }


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
