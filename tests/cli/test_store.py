from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Symmoe

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


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
