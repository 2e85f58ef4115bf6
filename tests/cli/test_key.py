from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from symmoe.cli.key import with_store
from symmoe.deployments.access.usage import Usage, Used
from symmoe.deployments.storage import Storage

from .conftest import Symmoe

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


def test_a_key_is_shown_once_and_listed_by_its_id_alone(symmoe_command: Symmoe, state: Path) -> None:
    limits = ["--requests-per-minute", 60, "--tokens-per-minute", 9000, "--expires", 30]
    made = symmoe_command("key", "create", "team a", *limits, "--json").json
    assert made["key"].startswith("sk-symmoe-")
    assert made["id"] not in made["key"]
    listed = symmoe_command("key", "list", "--json")
    assert listed.json == [{name: value for name, value in made.items() if name != "key"}]
    assert listed.json[0]["state"] == "active"
    shown = symmoe_command("key", "list").out
    assert made["id"] in shown
    digest = hashlib.sha256(made["key"].encode()).hexdigest()
    for said in (listed.out, shown):
        assert made["key"] not in said
        assert digest not in said
    files = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert made["key"].encode() not in files
    assert digest.encode() in files


def test_without_json_the_key_stands_alone_on_the_first_line(symmoe_command: Symmoe) -> None:
    first, second = symmoe_command("key", "create", "team").out.splitlines()
    assert first.startswith("sk-symmoe-")
    assert "not shown again" in second
    assert first not in second


def test_a_revoked_key_stays_listed_as_such(symmoe_command: Symmoe) -> None:
    made = symmoe_command("key", "create", "team", "--json").json
    revoked = symmoe_command("key", "revoke", made["id"], "--json").json
    assert revoked["state"] == "revoked"
    assert symmoe_command("key", "revoke", made["id"]).code == 0
    assert symmoe_command("key", "list", "--json").json == [revoked]


def test_a_key_is_rotated_for_the_same_owner_with_the_same_limits(symmoe_command: Symmoe) -> None:
    old = symmoe_command("key", "create", "team", "--requests-per-minute", 60, "--expires", 30, "--json").json
    new = symmoe_command("key", "rotate", old["id"], "--overlap", 2, "--json").json
    assert new["key"] != old["key"]
    assert (new["owner"], new["name"], new["requests_per_minute"]) == (old["id"], "team", 60)
    ends = {row["id"]: row["expires"] for row in symmoe_command("key", "list", "--json").json}
    assert ends[old["id"]] < old["expires"] <= ends[new["id"]]
    again = symmoe_command("key", "rotate", new["id"], "--overlap", 0, "--json").json
    assert again["owner"] == old["id"]
    states = {row["id"]: row["state"] for row in symmoe_command("key", "list", "--json").json}
    assert states == {old["id"]: "active", new["id"]: "expired", again["id"]: "active"}


def test_an_unknown_id_is_an_error_that_does_not_repeat_it(symmoe_command: Symmoe) -> None:
    key = symmoe_command("key", "create", "team", "--json").json["key"]
    said = symmoe_command("key", "revoke", key)
    assert said.code == 2
    assert said.errors == ["error: no key has that id"]
    assert key not in said.out + said.err


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "sk-symmoe-abc"])
def test_what_is_no_name_is_refused(symmoe_command: Symmoe, name: str) -> None:
    said = symmoe_command("key", "create", name)
    assert said.code == 2
    assert "sk-symmoe" not in said.out + said.err


@pytest.mark.parametrize("words", ["--requests-per-minute 0", "--tokens-per-minute -1", "--expires 0", "--expires nan"])
def test_limits_that_are_none_are_refused(symmoe_command: Symmoe, words: str) -> None:
    assert symmoe_command("key", "create", "team", *words.split()).code == 2


def test_a_store_that_cannot_be_used_is_one_line_of_error(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("http://localhost", "redis://127.0.0.1:1/0"):
        monkeypatch.setenv("REDIS_URL", url)
        said = symmoe_command("key", "list")
        assert said.code == 1
        assert len(said.errors) == 1
        assert " hint: " in said.err


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--keys"]])  # noqa: S104
def test_a_service_that_asks_for_keys_is_not_started_before_there_is_one(
    symmoe_command: Symmoe, pool: Path, words: list[str]
) -> None:
    made = symmoe_command("key", "create", "team", "--json").json
    symmoe_command("key", "revoke", made["id"])
    said = symmoe_command("serve", "--pool", pool, *words)
    assert said.code == 2
    assert "there are none" in said.errors[0]
    assert "symmoe key create" in said.err


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


LONG = "batch-of-" + "everything-" * 4


def test_the_list_shows_ids_names_and_dates_in_whole_in_80_columns(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    limits = ["--requests-per-minute", 600_000, "--tokens-per-minute", 90_000_000, "--budget", 12345.5, "--expires", 30]
    made = symmoe_command("key", "create", LONG, *limits, "--scope", "admin", "--json").json
    shown = symmoe_command("key", "list").out
    day, time = made["expires"].removesuffix("+00:00").split("T")
    for word in (made["id"], LONG[:16], LONG[-5:], day, time, "600000", "90000000", "12345.5 a", "month", "admin"):
        assert word in shown
    assert "…" not in shown


@pytest.mark.parametrize("by", ["key", "expert", "day", "key,expert,day", "key,day", "key,expert", "expert,day"])
def test_usage_shows_whose_it_is_in_whole_in_80_columns(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = symmoe_command("key", "create", LONG, "--budget", 12345.5, "--json").json

    async def working(storage: Storage) -> None:
        usage = Usage(storage, 60.0, lambda: None)
        usage.note(made["id"], [Used("deepseek-math", 10_000_000, 20_000_000, 5 * 10**12)])
        await usage.write()

    with_store(working)
    shown = symmoe_command("usage", "--by", by).out
    today = datetime.now(UTC).date().isoformat()
    words = {"key": made["id"], "expert": "deepseek-math", "day": today}
    for word in (*(words[group] for group in by.split(",")), "10000000", "20000000", "5000.000000"):
        assert word in shown
    assert ("5000 of 12345.5" in shown) == ("a month" in shown) == (by == "key")
    assert "…" not in shown


def test_where_nothing_was_counted_it_is_said_and_what_cannot_be_asked_is_refused(symmoe_command: Symmoe) -> None:
    assert "no usage" in symmoe_command("usage").out
    for words in (("--by", "colour"), ("--days", 4000)):
        assert symmoe_command("usage", *words).code == 2


def test_status_starts_the_embedded_store_and_says_where_it_is(symmoe_command: Symmoe, state: Path) -> None:
    said = symmoe_command("store", "status", "--json")
    assert said.code == 0
    assert said.json["where"] == str(state / "valkey.sock")
    assert said.json["server"] == "valkey"
    assert str(state / "valkey.sock") in symmoe_command("store", "status").out.replace("\n", "")


def test_stop_ends_the_embedded_store(symmoe_command: Symmoe, state: Path) -> None:
    assert symmoe_command("store", "status").code == 0
    assert symmoe_command("store", "stop", "--json").json == {"stopped": True}
    assert not (state / "valkey.sock").exists()


def test_stop_says_that_the_store_was_not_running(symmoe_command: Symmoe) -> None:
    assert symmoe_command("store", "stop", "--json").json == {"stopped": False}
    assert "not running" in symmoe_command("store", "stop").out


def test_a_redis_url_that_cannot_be_used_ends_with_1_and_a_hint(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")
    said = symmoe_command("store", "status")
    assert said.code == 1
    assert len(said.errors) == 1
    assert " hint: " in said.err
