"""`symmoe usage`: requests, tokens and cost of a service, by key, expert and day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .key import below_each_other, with_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symmoe.deployments.access.usage import By

_DEFAULT_DAYS = 30
_COUNTED = {
    "requests": "re-\nquests",
    "generations": "gener-\nations",
    "prompt_tokens": "tokens\nin",
    "completion_tokens": "tokens\nout",
}


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
    """One line of numbers for each row; what they are grouped by stands in one column, below each other."""
    from .render import table

    counted = [name for name in _COUNTED if not rows or name in rows[0]]
    named = [*by, *(["name"] if list(by) == ["key"] else []), *(["budget"] if any(map(_budget, rows)) else [])]
    lines = [[_group(by, row), *(row[name] for name in counted), f"{row['cost']:.6f}"] for row in rows]
    if len(rows) > 1:
        sums = [sum(row[name] for row in rows) for name in counted]
        lines.append(["sum", *sums, f"{sum(row['cost'] for row in rows):.6f}"])
    columns = ["\n".join(named), *(_COUNTED[name] for name in counted), "cost"]
    return table(title, columns, lines, right=range(1, len(columns)), whole=range(len(columns)))


def _group(by: Sequence[str], row: dict[str, Any]) -> str:
    """What a row's numbers are of, with a key's name and budget."""
    from .render import in_lines

    lines = [in_lines(row[name] or "-", 20) for name in by]
    if "name" in row:
        lines = [below_each_other(lines[0], row["name"]), *([_budget(row)] if _budget(row) else [])]
    return "\n".join(lines)


def _budget(row: dict[str, Any]) -> str:
    """What is spent of the budget of a row's key, in lines as long as an id; empty without a budget."""
    from textwrap import fill

    budget = row.get("budget")
    if budget is None:
        return ""
    per = "" if budget["per"] == "ever" else f" a {budget['per']}"
    return fill(f"{budget['spent']:g} of {budget['amount']:g}{per}", 16)
