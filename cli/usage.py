"""`symmoe usage`: requests, tokens and cost of a service, by key, expert and day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .key import with_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symmoe.deployments.access.usage import By

_DEFAULT_DAYS = 30
_COUNTED = ("requests", "generations", "prompt_tokens", "completion_tokens")


def usage(
    by: Annotated[
        str, typer.Option("--by", metavar="WHAT,…", help="Group by key, expert, day, or several of them.")
    ] = "key",
    days: Annotated[
        int, typer.Option("--days", min=1, help="The last so many days, in UTC, today included.")
    ] = _DEFAULT_DAYS,
    key: Annotated[str | None, typer.Option("--key", metavar="ID", help="Only of the key with this id.")] = None,
    json: options.Json = False,
) -> None:
    """Show requests, generations, tokens and cost by key, expert and day.

    Reads the store at `REDIS_URL`, or the embedded one. The service need not run; what it answered within the last
    second may be missing. Costs are in the pool's currency.
    """
    from datetime import UTC, datetime, timedelta

    from symmoe.deployments.access.usage import usage_between

    from symmoe.errors import ConfigError
    from symmoe.limits import USAGE_DAYS

    from .render import show, show_json

    if days > USAGE_DAYS:
        raise ConfigError(f"--days: {USAGE_DAYS} at most", hint="a longer period cannot be shown at once")
    last = datetime.now(UTC).date()
    first, groups = last - timedelta(days=days - 1), _groups(by)
    rows = with_store(lambda storage: usage_between(storage, first, last, groups, key))
    if json:
        period = {"from": first.isoformat(), "to": last.isoformat(), "by": groups}
        show_json({**period, "data": rows})
        return
    show(_usage_table(groups, rows, f"Usage from {first} to {last}"))
    if not rows:
        show("no usage: a service (`symmoe serve`) counts what it answers")


def _groups(by: str) -> list[By]:
    from symmoe.deployments.access.usage import BY

    from symmoe.errors import ConfigError

    named = [part.strip() for part in by.split(",") if part.strip()]
    unknown = [part for part in named if part not in BY]
    if unknown:
        raise ConfigError(f"--by: {unknown[0]!r} is none of {', '.join(BY)}")
    return [each for each in BY if each in named]


def _usage_table(by: Sequence[str], rows: list[dict[str, Any]], title: str) -> Any:
    from .render import table

    counted = [name for name in _COUNTED if not rows or name in rows[0]]
    named = [*by, "name"] if list(by) == ["key"] else [*by]
    budgets = any(row.get("budget") for row in rows)
    lines = [
        [
            *(row[name] or "-" for name in named),
            *(row[name] for name in counted),
            f"{row['cost']:.6f}",
            *([_budget(row["budget"])] if budgets else []),
        ]
        for row in rows
    ]
    if len(rows) > 1:
        sums = [sum(row[name] for row in rows) for name in counted]
        cost = f"{sum(row['cost'] for row in rows):.6f}"
        lines.append(["sum", *[""] * (len(named) - 1), *sums, cost, *([""] if budgets else [])])
    columns = [*named, *(name.replace("_tokens", "") for name in counted), "cost", *(["budget"] if budgets else [])]
    return table(title, columns, lines, right=range(len(named), len(named) + len(counted) + 1))


def _budget(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return "-"
    per = "" if budget["per"] == "ever" else f" a {budget['per']}"
    return f"{budget['spent']:g} of {budget['amount']:g}{per}"
