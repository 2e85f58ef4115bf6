"""Experts that come, rest, are shut out and go while a service runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, until

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
