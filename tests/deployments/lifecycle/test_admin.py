"""Who may change experts, and what may not join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.callers import Open
from symmoe.deployments.access.keys import StoredKeys
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from tests.deployments.access.conftest import make_key
from tests.deployments.api.conftest import PATIENCE, Running

from .conftest import EXPERTS, add, change, changeable, listed, refused


def every_change(served: Running, headers: dict[str, str]) -> list[tuple[int, str]]:
    """How each admin path answers."""
    expert = {"expert": {"name": "poet", "model": "org/base"}}
    answers = [
        served.get(EXPERTS, headers=headers),
        served.post(EXPERTS, json=expert, headers=headers),
        *(change(served, "adder", action, headers=headers) for action in ("drain", "quarantine", "restore")),
        served.delete(f"{EXPERTS}/adder", headers=headers),
    ]
    return [refused(answer) for answer in answers]


def test_without_keys_only_who_may_do_so_changes_experts(tmp_path: Path) -> None:
    with changeable(tmp_path, Settings(), Open()) as served:
        assert set(every_change(served, {})) == {(403, "not_admin")}
        assert served.service.lifecycle.roster.decisions == {}


def test_a_page_under_another_name_for_this_machine_changes_nothing(changing: Running) -> None:
    for host in ("evil.example", "[::1", ""):
        assert set(every_change(changing, {"host": host})) <= {(403, "cross_site"), (400, "invalid_request")}
    assert changing.service.lifecycle.roster.decisions == {}
    form = {"content": "why=x", "headers": {"content-type": "application/x-www-form-urlencoded"}}
    assert changing.post(f"{EXPERTS}/adder/quarantine", **form).status_code == 415


def test_of_keys_only_those_made_for_it_change_experts(tmp_path: Path, state: Path) -> None:
    plain, _ = make_key()
    admin, _ = make_key(admin=True)
    storage = Storage()
    with changeable(tmp_path, Settings(), StoredKeys(Breaker(storage, PATIENCE)), storage=storage) as served:
        assert set(every_change(served, {})) == {(401, "invalid_api_key")}
        assert set(every_change(served, {"authorization": f"Bearer {plain}"})) == {(403, "not_admin")}
        headers = {"authorization": f"Bearer {admin}"}
        assert change(served, "adder", "drain", headers=headers).status_code == 200
        assert served.get(EXPERTS, headers=headers).json()["data"][0]["state"] == "draining"


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": "../outside"},
        {"adapter": "/etc"},
        {"adapter": "~/adapter"},
        {"adapter": "~nobody-of-this-name/adapter"},
        {"adapter": "./link"},
        {"adapter": "./a\0b"},
        {"adapter": "x" * 100_000},
        {"model": "/etc"},
        {"model": "./../.."},
        {"model": "https://far.example/model"},
        {"model": "s3://bucket/model"},
        {"adapter": "s3://bucket/adapter"},
        {"remote": {"url": "http://169.254.169.254/v1"}},
        {"dedicated": True},
        {"trust_remote_code": True},
        {"name": "symmoe/auto"},
        {"name": "../x"},
        {"unknown": 1},
    ],
)
def test_nothing_from_elsewhere_joins(changing: Running, tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "link").symlink_to("/etc")
    expert = {"name": "poet", "model": "org/base", "adapter": "./poet", **wrong}
    answer = changing.post(EXPERTS, json={"expert": expert})
    assert answer.status_code == 400, answer.text
    assert "root:" not in answer.text
    assert "poet" not in listed(changing)


@pytest.mark.parametrize("record", [{}, {"overall": [-1, 0], "skills": {}}, {"overall": [1, 0], "skills": 3}])
def test_a_record_that_is_none_is_refused(changing: Running, record: dict[str, Any]) -> None:
    assert refused(add(changing, "poet", record=record)) == (400, "invalid_expert")
    assert "poet" not in listed(changing)


def test_files_may_lie_in_one_more_folder_that_the_operator_names(tmp_path: Path) -> None:
    settings = Settings(weights_folder=str(tmp_path / "weights"))
    with changeable(tmp_path / "pool", settings) as served:
        for adapter, status in ((tmp_path / "weights" / "poet", 201), (tmp_path / "other", 400)):
            expert = {"name": f"poet-{status}", "model": "org/base", "adapter": str(adapter)}
            assert served.post(EXPERTS, json={"expert": expert}).status_code == status


def test_experts_and_actions_that_there_are_not(changing: Running) -> None:
    assert refused(change(changing, "nobody", "drain")) == (404, "expert_not_found")
    assert refused(change(changing, "adder", "dance")) == (404, "not_found")
    assert refused(changing.delete(f"{EXPERTS}/nobody")) == (404, "expert_not_found")
    assert changing.post(f"{EXPERTS}/adder/drain", json={"why": 3}).status_code == 400
