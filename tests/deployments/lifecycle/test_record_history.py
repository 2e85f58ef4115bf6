"""How records changed: what is noted of it, that it is noted once, and how much stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import Open
from symmoe.deployments.lifecycle import record_history
from symmoe.deployments.lifecycle.record_history import RecordHistory
from symmoe.deployments.lifecycle.roster import Roster
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import read_pool
from symmoe.types import ExpertProfile, Profiles, Tally
from tests.conftest import echo_pool
from tests.deployments.api.conftest import PATIENCE, Running, until
from tests.stores import state_in

from .conftest import EXPERTS, add, changeable, refused

PATH = "/v1/admin/skills/history"
RECORD = {"overall": [3, 1], "skills": {"sums": [3, 0], "sorting": [0, 1]}}
CELLS = st.dictionaries(st.sampled_from(["", "sums", "spanish"]), st.tuples(st.integers(0, 9), st.integers(0, 9)))
TABLES = st.dictionaries(st.sampled_from(["adder", "speaker", "sorter"]), CELLS)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[None]:
    with state_in(tmp_path / "own"):
        yield


def changes(served: Running, query: str = "") -> list[dict[str, Any]]:
    until(lambda: served.service.lifecycle.roster.known)
    response = served.get(f"{PATH}{query}")
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, float | None, float | None]]:
    """Whose record, what became of it, and how many answers it had before and has now."""
    return [
        (row["expert"], row["change"], *(row[when] and row[when]["asked"] for when in ("before", "now")))
        for row in rows
    ]


@pytest.mark.usefixtures("state")
def test_who_joins_and_who_leaves_is_noted(tmp_path: Path) -> None:
    with changeable(tmp_path, Settings(), remembers=True) as served:
        assert told(changes(served)) == [
            ("adder", "found", None, 10),
            ("broken", "found", None, 10),
            ("sorter", "found", None, 10),
            ("speaker", "found", None, 10),
        ]
        assert add(served, "poet", record=RECORD).status_code == 201
        assert add(served, "mute").status_code == 201
        served.delete(f"{EXPERTS}/adder")
        newest = changes(served)[:3]
        assert set(told(newest)) == {
            ("adder", "removed", 10, None),
            ("mute", "added", None, None),
            ("poet", "added", None, 4),
        }


@pytest.mark.usefixtures("state")
def test_records_that_were_built_anew_stand_beside_the_former_ones(tmp_path: Path) -> None:
    with changeable(tmp_path, Settings(), remembers=True) as served:
        assert len(changes(served)) == 4
    file = tmp_path / "profiles.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["experts"]["adder"] |= {"overall": [12, 8], "skills": {"sums": [5, 5], "spanish": [0, 3]}}
    file.write_text(json.dumps(document), encoding="utf-8")
    pool = read_pool(str(tmp_path / "pool.yaml"))
    with changeable(tmp_path, Settings(), remembers=True, pool=pool) as served:
        newest = changes(served)[0]
        assert (newest["expert"], newest["change"], newest["skills_changed"]) == ("adder", "updated", 2)
        assert (newest["before"]["accuracy"], newest["now"]["accuracy"]) == (round(10 / 12, 4), round(13 / 22, 4))
        assert (newest["most"]["skill"], newest["most"]["now"]["asked"]) == ("sums", 10)
        assert told(changes(served, "?expert=adder&skill=sums")) == [
            ("adder", "updated", 9, 10),
            ("adder", "found", None, 9),
        ]
        assert told(changes(served, "?expert=adder&skill=sorting")) == [
            ("adder", "updated", 3, None),
            ("adder", "found", None, 3),
        ]
        assert changes(served, f"?before={newest['at']}&expert=speaker")[0]["change"] == "found"
        assert served.get(f"{PATH}?limit=2").json()["has_more"]
        assert served.get(f"{PATH}?limit=0").status_code == 400
        assert len(changes(served)) == 5  # that it is looked at, or started again, is no change


@pytest.mark.usefixtures("state")
def test_only_admins_see_it(tmp_path: Path) -> None:
    with changeable(tmp_path, Settings(), Open(), remembers=True) as served:
        assert refused(served.get(PATH)) == (403, "not_admin")


@pytest.mark.usefixtures("state")
def test_a_service_that_remembers_nothing_has_no_history(tmp_path: Path) -> None:
    with changeable(tmp_path, Settings()) as served:
        assert changes(served) == []


class Records:
    """A pool's records that change."""

    def __init__(self, folder: Path, right: float = 1.0) -> None:
        self.pool = read_pool(str(echo_pool(folder)))
        self.roster, self.right = Roster(self.pool), right
        self.storage = Storage()

    def __call__(self) -> Profiles:
        return Profiles({"adder": ExpertProfile("adder", {"sums": Tally(self.right, 1)}, Tally(self.right, 1))})

    def history(self) -> RecordHistory:
        return RecordHistory("echoes", self.roster, self, Breaker(self.storage, PATIENCE), lambda: self.right)


@pytest.mark.usefixtures("state")
def test_what_several_processes_see_is_noted_once(tmp_path: Path) -> None:
    records = Records(tmp_path)

    async def play() -> list[float]:
        await asyncio.gather(*(records.history().note() for _ in range(8)))
        records.right = 2.0
        await asyncio.gather(*(records.history().note() for _ in range(8)))
        found = await records.history().changes()
        await records.storage.close()
        return [each.at for each in found if each.expert == "adder"]

    assert asyncio.run(play()) == [2.0, 2.0, 1.0, 1.0]


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("bound", [("RECORD_VERSIONS", 3), ("RECORD_HISTORY_BYTES", 300)])
def test_the_oldest_versions_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: tuple[str, int]) -> None:
    monkeypatch.setattr(record_history, *bound)
    records = Records(tmp_path)

    async def play() -> list[float]:
        for records.right in range(1, 7):
            await records.history().note()
        found = await records.history().changes()
        await records.storage.close()
        return [each.at for each in found if each.skill == "sums"]

    assert asyncio.run(play()) in ([6, 5, 4], [6, 5])


@given(TABLES, TABLES)
def test_changes_lead_from_one_table_to_the_next(before: dict[str, Any], now: dict[str, Any]) -> None:
    cells = {(expert, skill): cell for expert, skills in before.items() for skill, cell in skills.items()}
    kinds: dict[str, str] = {}
    for expert, change, skill, was, becomes in record_history._rows(before, now):
        assert cells.pop((expert, skill), None) == was
        if becomes is not None:
            cells[expert, skill] = becomes
        kinds[expert] = change
    assert cells == {(expert, skill): cell for expert, skills in now.items() for skill, cell in skills.items()}
    assert {expert for expert, change in kinds.items() if change == "added"} == now.keys() - before.keys()
    assert {expert for expert, change in kinds.items() if change == "removed"} == before.keys() - now.keys()
