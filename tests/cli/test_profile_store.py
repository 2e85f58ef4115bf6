"""Profiles kept in the store, on a real Redis-protocol server."""

from __future__ import annotations

import json
from pathlib import Path

from ..conftest import echo_pool
from .conftest import Symmoe


def test_a_pool_can_take_its_profiles_from_the_store(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"profiles": "store:team"})
    assert symmoe_command("route", "sums 1", "--pool", pool).code == 2
    assert symmoe_command("profile", "push", tmp_path / "profiles.json", "--name", "team").code == 0
    assert symmoe_command("route", "sums 1", "--pool", pool, "--json").json["recruited"][0] == "adder"
    assert symmoe_command("ask", "sums 1", "--pool", pool).code == 0


def test_what_was_pushed_is_pulled_again(symmoe_command: Symmoe, tmp_path: Path) -> None:
    echo_pool(tmp_path)
    kept, pulled = tmp_path / "profiles.json", tmp_path / "pulled.json"
    symmoe_command("profile", "push", kept, "--name", "team")
    assert symmoe_command("profile", "pull", "team", "-o", pulled).code == 0
    assert symmoe_command("profile", "diff", kept, pulled, "--json").json["only_first"] == []
    assert json.loads(pulled.read_text())["experts"].keys() == json.loads(kept.read_text())["experts"].keys()


def test_the_newest_version_counts_and_pushing_it_again_makes_no_other(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"profiles": "store:team"})
    path = tmp_path / "profiles.json"
    first = symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"]
    assert symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"] == first
    document = json.loads(path.read_text())
    document["experts"]["adder"], document["experts"]["sorter"] = (
        document["experts"]["sorter"],
        document["experts"]["adder"],
    )
    path.write_text(json.dumps(document))
    assert symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"] != first
    assert symmoe_command("route", "sums 1", "--pool", pool, "--json").json["recruited"][0] == "sorter"


def test_a_name_that_the_store_does_not_know_is_told(symmoe_command: Symmoe, tmp_path: Path) -> None:
    said = symmoe_command("profile", "pull", "nobody", "-o", tmp_path / "p.json")
    assert (said.code, len(said.errors)) == (2, 1)
    assert "profile push" in said.err
