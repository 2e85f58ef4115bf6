"""A pool file that is changed while the service runs: who comes is asked, who goes is not, others notice nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from symmoe.deployments.access.callers import Open
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, running, until


def written(file: Path, *names: str, **more: object) -> None:
    """The pool file with these experts; a rename, so that it is never seen half."""
    described = yaml.safe_load(file.read_text())
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
