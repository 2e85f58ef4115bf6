"""The log: a line about every request, and nothing in it that was not meant for it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import StoredKeys
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage
from symmoe.deployments.telemetry.logs import RequestLog
from symmoe.deployments.telemetry.relay import relayed
from symmoe.deployments.telemetry.telemetry import Telemetry

from symmoe.errors import ConfigError
from tests.deployments.access.conftest import make_key
from tests.deployments.api.conftest import PATIENCE, running
from tests.deployments.lifecycle.conftest import change, changeable

SECRET = "the-secret-question"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def ask(served: Any, model: str, **options: Any) -> Any:
    headers = options.pop("headers", {})
    body = {"model": model, "messages": [{"role": "user", "content": f"sums {SECRET}"}], **options}
    return served.post(json=body, headers=headers)


def test_each_request_is_one_line_that_says_how_it_went_but_not_what_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with running(tmp_path, Settings(log="json", log_file=str(file)), aggregation={"trust": 1.0}) as served:
        ask(served, "symmoe/best", headers={"x-request-id": "mine"})
        ask(served, "adder", stream=True)
        ask(served, f"nobody {SECRET}")
        served.get(f"/{SECRET}")
        served.get("/health")
        served.get("/metrics")
    text = file.read_text(encoding="utf-8")
    assert SECRET not in text
    known = {(line.get("answered"), line["path"]): line for line in lines(file)}
    chat = "/v1/chat/completions"
    best, named, unknown, lost = (
        known[key] for key in (("aggregated", chat), ("named", chat), (None, chat), (None, "other"))
    )
    assert len(lines(file)) == 4
    assert (best["id"], best["status"], best["path"]) == ("mine", 200, "/v1/chat/completions")
    assert (best["answered"], best["skills"], best["model"]) == ("aggregated", ["sums"], "symmoe/best")
    assert set(best["experts"]) <= {"adder", "speaker", "sorter", "broken"}
    assert best["failures"] == [{"expert": "broken", "code": "expert_unavailable"}]
    assert best["tokens"]["completion"] > 0
    assert {"total", "route", "wait", "load", "generate", "first_token", "score", "aggregate"} == set(best["seconds"])
    assert (named["answered"], named["experts"], named["level"]) == ("named", ["adder"], "INFO")
    assert named["seconds"]["total"] >= named["seconds"]["first_token"] > 0
    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    assert "model" not in unknown
    assert (lost["status"], lost["path"]) == (404, "other")


def test_a_stream_that_fails_once_it_has_begun_is_told_with_why(tmp_path: Path) -> None:
    file = tmp_path / "log"
    body = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}], "stream": True}
    with changeable(tmp_path, Settings(log="json", log_file=str(file))) as served:
        url = f"{served.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=PATIENCE) as response:
            parts = response.iter_text()
            next(parts)
            change(served, "adder", "quarantine")
            assert "expert_unavailable" in "".join(parts)
    (line,) = [line for line in lines(file) if line["path"] == "/v1/chat/completions"]
    assert (line["status"], line["code"]) == (200, "expert_unavailable")


def test_what_was_asked_is_there_where_that_is_switched_on(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with running(tmp_path, Settings(log="json", log_file=str(file), log_prompts=True)) as served:
        ask(served, "adder")
    (line,) = lines(file)
    assert line["messages"] == [{"role": "user", "content": f"sums {SECRET}"}]


def test_keys_are_never_in_it_not_even_wrong_ones(tmp_path: Path, state: Path) -> None:
    key, record = make_key()
    file, storage = tmp_path / "log", Storage()
    settings = Settings(log="json", log_file=str(file), log_prompts=True)
    with running(tmp_path, settings, StoredKeys(Breaker(storage, PATIENCE)), storage) as served:
        for tried in (key, "sk-symmoe-wrong"):
            ask(served, "adder", headers={"authorization": f"Bearer {tried}", "x-request-id": tried * 9})
    found = {line["status"]: line for line in lines(file)}
    assert set(found) == {200, 401}
    assert found[200]["key"] == record.id
    assert key not in file.read_text(encoding="utf-8")
    assert "sk-symmoe" not in file.read_text(encoding="utf-8")


def test_a_log_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="yaml"):
        Telemetry.of(Settings(log="yaml"))
    with pytest.raises(ConfigError, match="cannot be written"):
        RequestLog(str(tmp_path / "none" / "log"))


def test_lines_of_another_process_appear_here_all_of_them() -> None:
    shown = io.StringIO()
    with relayed(shown) as file:
        log = RequestLog(file)
        for number in range(500):
            log.write({"number": number})
        log.close()
    assert [json.loads(line)["number"] for line in shown.getvalue().splitlines()] == list(range(500))
    assert not Path(file).exists()
