from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from symmoe.cli.key import with_store
from symmoe.deployments.access.usage import Usage, Used
from symmoe.deployments.storage import Storage

from .conftest import Symmoe


def counted(key: str) -> None:
    """Two requests of a key, the second answered by two experts."""

    async def working(storage: Storage) -> None:
        usage = Usage(storage, 60.0, lambda: None)
        usage.note(key, [Used("adder", 10, 20, 5 * 10**8)])
        usage.note(key, [Used("adder", 1, 2, 10**8), Used("speaker", 3, 4)])
        await usage.write()

    with_store(working)


def test_usage_is_a_table_of_keys_with_their_budgets_or_what_is_asked_for(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = symmoe_command("key", "create", "team a", "--budget", 2.5, "--budget-per", "day", "--json").json
    assert (made["budget"], made["budget_per"]) == (2.5, "day")
    assert "2.5 a" in symmoe_command("key", "list").out
    counted(made["id"])
    rows: list[dict[str, Any]] = symmoe_command("usage", "--json").json["data"]
    assert rows == [
        {
            "key": made["id"],
            "requests": 2,
            "generations": 3,
            "prompt_tokens": 14,
            "completion_tokens": 26,
            "cost": 0.6,
            "name": "team a",
            "budget": {"amount": 2.5, "per": "day", "spent": 0.6},
        }
    ]
    monkeypatch.setenv("COLUMNS", "200")
    shown = symmoe_command("usage").out
    assert "team a" in shown
    assert "0.6 of 2.5 a day" in shown
    by = symmoe_command("usage", "--by", "expert,day", "--key", made["id"], "--days", 2, "--json").json
    today = datetime.now(UTC).date().isoformat()
    assert [(row["day"], row["expert"], row["generations"]) for row in by["data"]] == [
        (today, "adder", 2),
        (today, "speaker", 1),
    ]
    assert "sum" in symmoe_command("usage", "--by", "expert").out


def test_where_nothing_was_counted_it_is_said_and_what_cannot_be_asked_is_refused(symmoe_command: Symmoe) -> None:
    assert "nothing was counted" in symmoe_command("usage").out
    for words in (("--by", "colour"), ("--days", 4000)):
        assert symmoe_command("usage", *words).code == 2
