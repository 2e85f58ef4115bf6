from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import Open, StoredKeys
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import read_pool
from symmoe.yaml_text import load_yaml
from tests.conftest import echo_pool
from tests.deployments.access.conftest import make_key
from tests.deployments.api.conftest import PATIENCE, Running, running, until

from .conftest import EXPERTS, Later, add, ask, change, changeable, listed, refused, said

RECORD = {"overall": [99, 1], "skills": {"sums": [99, 0], "spanish": [0, 9], "sorting": [0, 9]}}


def names(served: Running) -> list[str]:
    return [each["id"] for each in served.get("/v1/models").json()["data"]]


def test_a_quarantined_expert_is_asked_nothing_and_its_questions_go_to_others(changing: Running) -> None:
    assert said(ask(changing, "symmoe/fast", "spanish")) == "speaker: spanish"
    assert change(changing, "speaker", "quarantine").json()["state"] == "quarantined"
    before = len(changing.engine.asked)
    answer = ask(changing, "speaker", "spanish")
    assert refused(answer) == (503, "expert_unavailable")
    assert "quarantined" in answer.text
    assert answer.headers["retry-after"]
    assert len(changing.engine.asked) == before
    assert not said(ask(changing, "symmoe/fast", "spanish")).startswith("speaker")
    route = changing.post("/v1/route", json={"model": "symmoe/best", "messages": [{"role": "user", "content": "x"}]})
    assert "speaker" not in route.json()["shares"]
    assert change(changing, "speaker", "restore").json()["state"] == "active"
    assert said(ask(changing, "symmoe/fast", "spanish")) == "speaker: spanish"


@pytest.mark.parametrize("stream", [False, True])
def test_in_the_middle_of_a_burst_nothing_more_reaches_it_and_every_request_has_an_end(
    changing: Running, later: Later, stream: bool
) -> None:
    first = later(changing, "adder", "hold on", stream=stream)
    until(lambda: len(changing.engine.asked) == 1)
    waiting = [later(changing, "adder", f"sums {n}", stream=stream) for n in range(6)]
    until(lambda: listed(changing)["adder"]["open"] == 7)
    assert change(changing, "adder", "quarantine").status_code == 200
    assert changing.engine.aborted.wait(10)
    assert [refused(each.result(10)) for each in waiting] == [(503, "expert_unavailable")] * 6
    if stream:  # its first word was there already, so its status was too
        assert '"expert_unavailable"' in first.result(10).text
    else:
        assert refused(first.result(10)) == (503, "expert_unavailable")
    assert [query.text for query in changing.engine.asked] == ["hold on"]
    until(lambda: listed(changing)["adder"]["open"] == 0)
    assert said(ask(changing, "sorter", "sorting")) == "sorter: sorting"


def test_questions_that_wait_for_it_are_answered_by_others(changing: Running, later: Later) -> None:
    held = later(changing, "sorter", "hold on")
    until(lambda: len(changing.engine.asked) == 1)
    waiting = [later(changing, "symmoe/fast", f"spanish {n}") for n in range(4)]
    until(lambda: listed(changing)["speaker"]["open"] == 4)
    change(changing, "speaker", "quarantine")
    changing.engine.released.set()
    assert said(held.result(10)) == "sorter: hold on"
    answers = [said(each.result(10)) for each in waiting]
    assert [text.partition(": ")[2] for text in answers] == [f"spanish {n}" for n in range(4)]
    assert "speaker" not in Counter(text.partition(":")[0] for text in answers)
    assert changing.metric("symmoe_rerouted_total") >= 4


def test_a_drained_expert_finishes_what_it_was_given_and_takes_nothing_new(changing: Running, later: Later) -> None:
    given = [later(changing, "adder", "hold on")]
    until(lambda: len(changing.engine.asked) == 1)
    given.append(later(changing, "adder", "sums 1"))
    until(lambda: listed(changing)["adder"]["open"] == 2)
    assert change(changing, "adder", "drain").json() | {"since": 0} == {
        "object": "symmoe.expert", "name": "adder", "state": "draining", "why": "a test", "since": 0, "until": None,
        "added": False, "routed": False, "open": 2, "failures": 0,
    }  # fmt: skip
    assert refused(ask(changing, "adder")) == (503, "expert_unavailable")
    changing.engine.released.set()
    assert [said(each.result(10)) for each in given] == ["adder: hold on", "adder: sums 1"]


def test_an_expert_that_joins_is_asked_by_its_name_and_routed_to_with_a_record(changing: Running) -> None:
    assert refused(ask(changing, "poet")) == (404, "model_not_found")
    joined = add(changing, "poet")
    assert joined.status_code == 201
    assert (joined.json()["added"], joined.json()["routed"]) == (True, False)
    assert "poet" in names(changing)
    assert changing.get("/v1/models/poet").json()["parent"] == "org/base"
    assert said(ask(changing, "poet")) == "poet: sums"
    assert said(ask(changing, "symmoe/fast", "sums")).startswith(("adder", "broken"))
    assert add(changing, "master", record=RECORD).json()["routed"] is True
    assert said(ask(changing, "symmoe/fast", "sums")) == "master: sums"
    assert refused(add(changing, "poet")) == (409, "expert_exists")
    assert refused(add(changing, "adder")) == (409, "expert_exists")


def test_an_expert_that_is_removed_is_no_model_and_no_question_goes_to_it(changing: Running) -> None:
    add(changing, "master", record=RECORD)
    for name in ("master", "adder"):
        assert changing.delete(f"{EXPERTS}/{name}").json()["deleted"] is True
        assert name not in names(changing)
        assert refused(ask(changing, name)) == (404, "model_not_found")
        assert changing.get(f"/v1/models/{name}").status_code == 404
        assert refused(changing.delete(f"{EXPERTS}/{name}")) == (404, "expert_not_found")
    assert not said(ask(changing, "symmoe/fast", "spanish")).startswith(("master", "adder"))
    assert (listed(changing)["adder"]["state"], "master" in listed(changing)) == ("removed", False)
    assert refused(change(changing, "adder", "drain")) == (404, "expert_not_found")
    change(changing, "adder", "restore")
    assert said(ask(changing, "adder")) == "adder: sums"


def test_the_last_expert_stays_and_with_none_left_to_ask_it_is_said(changing: Running) -> None:
    for name in ("speaker", "sorter", "broken"):
        changing.delete(f"{EXPERTS}/{name}")
    assert refused(changing.delete(f"{EXPERTS}/adder")) == (409, "last_expert")
    change(changing, "adder", "quarantine")
    assert refused(ask(changing, "symmoe/auto")) == (503, "expert_unavailable")


def test_one_that_cannot_be_made_ready_is_left_out_of_a_question(changing: Running) -> None:
    for name in ("speaker", "sorter", "adder"):
        change(changing, name, "drain")
    assert refused(ask(changing, "symmoe/fast")) == (503, "expert_unavailable")
    change(changing, "sorter", "restore")
    assert said(ask(changing, "symmoe/fast", "sums")) == "sorter: sums"
    assert changing.metric('symmoe_failures_total{code="expert_unavailable",expert="broken"}') == 2


def test_the_aggregated_answer_goes_on_without_an_expert_that_is_quarantined(changing: Running, later: Later) -> None:
    held = later(changing, "sorter", "hold on")
    until(lambda: len(changing.engine.asked) == 1)
    answer = later(changing, "symmoe/best", "spanish", symmoe={"explain": True})
    until(lambda: listed(changing)["speaker"]["open"] == 1)
    change(changing, "speaker", "quarantine")
    changing.engine.released.set()
    assert said(held.result(10)) == "sorter: hold on"
    told = answer.result(10).json()["symmoe"]
    assert told["path"] == "aggregated"
    assert "speaker" not in {each["expert"] for each in told["generations"]}


def test_answers_of_an_expert_that_was_quarantined_are_not_given_again(tmp_path: Path, state: Path) -> None:
    with changeable(tmp_path, Settings(cache_seconds=60)) as served:
        assert said(ask(served, "speaker", "spanish")) == said(ask(served, "speaker", "spanish")) == "speaker: spanish"
        assert said(ask(served, "symmoe/fast", "spanish")) == "speaker: spanish"
        change(served, "speaker", "quarantine")
        assert refused(ask(served, "speaker", "spanish")) == (503, "expert_unavailable")
        assert not said(ask(served, "symmoe/fast", "spanish")).startswith("speaker")
        add(served, "poet")
        first = ask(served, "poet")
        served.delete(f"{EXPERTS}/poet")
        served.post(EXPERTS, json={"expert": {"name": "poet", "model": "org/base", "adapter": "./other"}})
        assert (said(first), said(ask(served, "poet"))) == ("poet: sums", "other: sums")


def test_what_was_decided_outlives_the_service_and_reaches_others(tmp_path: Path, state: Path) -> None:
    with (
        changeable(tmp_path / "a", Settings(), remembers=True) as one,
        changeable(tmp_path / "b", Settings(), remembers=True) as two,
    ):
        until(lambda: one.service.lifecycle.roster.known and two.service.lifecycle.roster.known)
        change(one, "speaker", "quarantine")
        add(one, "master", record=RECORD)
        one.delete(f"{EXPERTS}/sorter")
        until(lambda: ask(two, "sorter").status_code == 404)
        assert refused(ask(two, "speaker")) == (503, "expert_unavailable")
        assert said(ask(two, "symmoe/fast", "sums")) == "master: sums"
    with changeable(tmp_path / "c", Settings(), remembers=True) as again:
        first = ask(again, "speaker")
        assert refused(first)[0] == 503
        until(lambda: again.get("/ready").status_code == 200)
        assert refused(ask(again, "speaker")) == (503, "expert_unavailable")
        assert refused(ask(again, "sorter")) == (404, "model_not_found")
        assert said(ask(again, "symmoe/fast", "sums")) == "master: sums"
        assert again.engine.asked
        assert listed(again)["speaker"]["why"] == "a test"


def test_state_and_queue_of_every_expert_are_in_the_metrics(changing: Running, later: Later) -> None:
    held = later(changing, "sorter", "hold on")
    until(lambda: len(changing.engine.asked) == 1)
    waiting = [later(changing, "adder", f"sums {n}") for n in range(3)]
    changing.until('symmoe_queue{expert="adder"}', 3)
    assert changing.metric('symmoe_running{expert="sorter"}') == 1
    assert changing.metric('symmoe_expert_open{expert="adder"}') == 3
    change(changing, "broken", "quarantine")
    assert changing.metric('symmoe_expert_state{expert="broken",state="quarantined"}') == 1
    assert changing.metric('symmoe_expert_state{expert="broken",state="active"}') == 0
    changing.engine.released.set()
    assert [each.result(10).status_code for each in (held, *waiting)] == [200] * 4


def written(file: Path, *names: str, **more: object) -> None:
    """The pool file with these experts; a rename, so that it is never seen half."""
    described = load_yaml(file.read_text())
    known = {each["name"]: each for each in described["experts"]}
    described["experts"] = [known.get(n, {"name": n, "model": "org/base", "adapter": f"./{n}"}) for n in names]
    new = file.with_suffix(".new")
    new.write_text(yaml.safe_dump({**described, **more}))
    new.rename(file)


def states(served: Running) -> dict[str, str]:
    roster = served.service.lifecycle.roster
    return {name: roster.state(name) for name in {*roster.pool.names, *roster.decisions}}


def asked(served: Running, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "spanish"}]}
    return served.post(json=body).status_code


@pytest.fixture
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool file is looked at twenty times a second."""
    monkeypatch.setattr("symmoe.deployments.lifecycle.following._LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("looked_at_often")
@pytest.mark.parametrize("remembers", [False, True])
def test_experts_come_and_go_with_the_file(tmp_path: Path, state: Path, remembers: bool) -> None:
    file = echo_pool(tmp_path)
    pool, settings = read_pool(str(file)), Settings(follow=str(file))
    with running(tmp_path, settings, pool=pool, remembers=remembers) as served:
        until(lambda: served.get("/ready").status_code == 200)
        assert asked(served, "poet") == 404
        record = {"overall": [8, 2], "skills": {"spanish": [5, 0]}}
        (tmp_path / "joined.json").write_text(json.dumps({"experts": {"poet": record}}))
        written(file, "adder", "speaker", "sorter", "poet")
        until(lambda: asked(served, "poet") == 200)
        assert served.service.lifecycle.roster.profiles["poet"].overall.right == 8
        written(file, "adder", "poet")
        until(lambda: states(served).get("sorter") == "removed")
        until(lambda: asked(served, "speaker") != 200)
        assert asked(served, "adder") == 200
        written(file, "adder", "sorter")
        until(lambda: states(served).get("sorter") == "active" and "poet" not in states(served))
        assert asked(served, "sorter") == 200


@pytest.mark.usefixtures("looked_at_often")
def test_what_an_operator_did_by_hand_stays(tmp_path: Path, state: Path) -> None:
    file = echo_pool(tmp_path)
    keys, settings = Open(admin=True), Settings(follow=str(file))
    with running(tmp_path, settings, keys=keys, pool=read_pool(str(file))) as served:
        until(lambda: served.get("/ready").status_code == 200)
        by_hand = {"expert": {"name": "hand", "model": "org/base", "adapter": "./hand"}}
        assert served.post("/v1/admin/experts", json=by_hand).is_success
        written(file, "adder", "speaker", "sorter", "poet")
        until(lambda: states(served).get("poet") == "active")
        assert states(served)["hand"] == "active"


@pytest.mark.usefixtures("looked_at_often")
def test_a_file_that_is_broken_changes_nothing(tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = echo_pool(tmp_path)
    with running(tmp_path, Settings(follow=str(file)), pool=read_pool(str(file))) as served:
        until(lambda: served.get("/ready").status_code == 200)
        whole = file.read_text()
        file.write_text("experts: [")
        until(lambda: "not followed yet" in caplog.text)
        assert asked(served, "adder") == 200
        file.write_text(whole)
        written(file, "adder", "speaker")
        until(lambda: states(served).get("sorter") == "removed")


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
