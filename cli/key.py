"""`symmoe key`: the API keys of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.deployments.access.keys import KeyRecord
    from symmoe.deployments.storage import Storage

Result = TypeVar("Result")
_DAY, _HOUR = 86_400.0, 3600.0


app = typer.Typer(help="Create, list, rotate and revoke the API keys of a service.", no_args_is_help=True)


def with_store(work: Callable[[Storage], Awaitable[Result]]) -> Result:
    """The result of `work` on the store at `REDIS_URL`, or on the embedded one. Raises `StoreError`."""
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
    """The record. Raises `ConfigError` if it is None: no key has the id."""
    from symmoe.errors import ConfigError

    if record is None:  # what was given is not repeated: it may be a key
        raise ConfigError("no key has that id", hint="`symmoe key list` shows the ids")
    return record


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people; it need not be unique.")],
    requests: Annotated[
        int | None,
        typer.Option("--requests-per-minute", min=1, max=10**9, help="Requests a minute, at most; default: no limit."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens-per-minute", min=1, max=10**12, help="Tokens a minute, of prompts and answers; default: no limit."
        ),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option("--expires", metavar="DAYS", min=0.001, max=36_500, help="Days until it expires; else never."),
    ] = None,
    scope: Annotated[
        Literal["ask", "admin"],
        typer.Option("--scope", help="admin: may also change experts and keys, and see the traces of all keys."),
    ] = "ask",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="AMOUNT", min=0, max=1e12, help="The most that it may spend, in the pool's currency."
        ),
    ] = None,
    per: Annotated[
        Literal["day", "month", "ever"], typer.Option("--budget-per", help="The period of the budget, in UTC.")
    ] = "month",
    json: options.Json = False,
) -> None:
    """Create a key and show it. It cannot be shown again: the store keeps only its SHA-256."""
    import time

    from symmoe.deployments.access.keys import KeyRecord, add, checked_name, new_id, new_key

    from .render import show_result

    key, now = new_key(), time.time()
    expires_at = None if expires is None else now + expires * _DAY
    limits = requests, tokens
    record = KeyRecord(new_id(), checked_name(name), now, expires_at, None, *limits, scope == "admin", budget, per)
    with_store(lambda storage: add(storage, key, record))
    show_result(
        json,
        {"key": key, **record.facts(now)},
        key,
        f"{record.id} ({record.name}): send it as `Authorization: Bearer KEY`. It is not shown again.",
    )


@app.command("list")
def list_keys(json: options.Json = False) -> None:
    """List all keys by id, with state and limits. The keys themselves are not stored."""
    import time

    from symmoe.deployments.access.keys import everyone

    from .render import show, show_json, table

    now = time.time()
    facts = [record.facts(now) for record in with_store(everyone)]
    if json:
        show_json(facts)
        return
    columns = ("id\nname", "state", "expires\n(UTC)", "requests\n/min", "tokens\n/min", "budget")
    show(table("Keys", columns, [_row(each) for each in facts], right=(3, 4, 5), whole=range(5)))


def below_each_other(ident: str, name: str | None) -> str:
    """A key's id, and below it the name in lines that are no longer: neither is cut in a narrow table."""
    from .render import in_lines

    return "\n".join(filter(None, (ident, in_lines(name or "", max(16, len(ident))))))


def _row(facts: dict[str, Any]) -> list[str]:
    """A key's cells in the list."""
    admin = (facts["state"], facts["scope"]) == ("active", "admin")
    expires, budget, per = facts["expires"], facts["budget"], facts["budget_per"]
    return [
        below_each_other(facts["id"], facts["name"]),
        "active,\nadmin" if admin else facts["state"],
        "-" if expires is None else expires.removesuffix("+00:00").replace("T", "\n"),
        *("-" if facts[limit] is None else str(facts[limit]) for limit in ("requests_per_minute", "tokens_per_minute")),
        "-" if budget is None else f"{budget:g}" + ("" if per == "ever" else f" a {per}"),
    ]


@app.command("rotate")
def rotate(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `symmoe key list` shows it.")],
    overlap: Annotated[
        float,
        typer.Option("--overlap", metavar="HOURS", min=0, max=8_760, help="Hours for which the old key stays valid."),
    ] = 24,
    json: options.Json = False,
) -> None:
    """Replace a key by a new one, which keeps its files, batches, usage, limits and budget."""
    import time

    from symmoe.deployments.access.keys import new_key
    from symmoe.deployments.access.keys import rotate as rotate_in

    from .render import show, show_json

    key, now = new_key(), time.time()
    record = existing(with_store(lambda storage: rotate_in(storage, ident, key, now, overlap * _HOUR)))
    if json:
        show_json({"key": key, **record.facts(now)})
        return
    old_key_state = f"stays valid for {overlap:g} h" if overlap else "is no longer valid"
    show(key, f"{record.id} ({record.name}) replaces {ident}, which {old_key_state}. It is not shown again.")


@app.command("revoke")
def revoke(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `symmoe key list` shows it.")],
    json: options.Json = False,
) -> None:
    """Revoke a key permanently; running services refuse it within two seconds."""
    import time

    from symmoe.deployments.access.keys import revoke as revoke_in

    from .render import show_result

    now = time.time()
    record = existing(with_store(lambda storage: revoke_in(storage, ident, now)))
    show_result(json, record.facts(now), f"{record.id} ({record.name}) is revoked")
