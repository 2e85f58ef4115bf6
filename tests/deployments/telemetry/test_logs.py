from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import StoredKeys
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage
from symmoe.deployments.telemetry.logs import RequestLog, relayed
from symmoe.deployments.telemetry.telemetry import Telemetry, Traces

from symmoe.errors import ConfigError
from tests.conftest import echo_pool
from tests.deployments.access.conftest import make_key
from tests.deployments.api.conftest import PATIENCE, running, until
from tests.deployments.batches.conftest import ended, line, rows_of, start
from tests.deployments.lifecycle.conftest import change, changeable
from tests.stores import state_in

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


def test_a_request_of_several_prompts_is_one_line_with_the_tokens_of_all(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with running(tmp_path, Settings(log="json", log_file=str(file))) as served:
        body = {"model": "adder", "prompt": ["sums of 1", "sums", "sums of two and two"]}
        usage = served.post("/v1/completions", json=body).json()["usage"]
    (line,) = lines(file)
    assert (line["answered"], line["experts"], len(line["origins"])) == ("named", ["adder"], 3)
    assert line["tokens"] == {"prompt": usage["prompt_tokens"], "completion": usage["completion_tokens"]}


def test_a_request_of_several_prompts_names_the_experts_of_each(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with running(tmp_path, Settings(log="json", log_file=str(file)), experts=("adder", "speaker")) as served:
        for prompt in ("sums", "spanish", ["sums", "spanish"]):
            assert served.post("/v1/completions", json={"model": "symmoe/fast", "prompt": prompt}).status_code == 200
    one, other, both = (line["experts"] for line in lines(file))
    assert one != other
    assert both == [*one, *other]


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


def secret(number: int, model: str = "symmoe/best") -> dict[str, Any]:
    """A line whose text, own id and unknown names nobody else may read."""
    body = {"model": model, "messages": [{"role": "user", "content": f"sums {SECRET}"}]}
    return line(number, custom_id=f"{SECRET}-{number}", body=body)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def test_each_line_is_one_row_of_the_log_that_says_how_it_went_but_neither_its_text_nor_its_id(folder: Path) -> None:
    file = folder / "log"
    with running(
        folder, Settings(log="json", log_file=str(file), batch_lease=1.0), aggregation={"trust": 1.0}
    ) as served:
        rows = [secret(0), secret(1, "adder"), secret(2, f"nobody {SECRET}"), f'{{"custom_id": "{SECRET}"']
        over = ended(served.openai, start(served.openai, rows))
        written = [*rows_of(served.openai, over.output_file_id), *rows_of(served.openai, over.error_file_id)]
    text = file.read_text(encoding="utf-8")
    assert SECRET not in text
    told = [row for row in map(json.loads, text.splitlines()) if "batch" in row]
    assert {row["batch"] for row in told} == {over.id}
    assert sorted(row["id"] for row in told) == sorted(row["id"].removeprefix("batch_req_") for row in written)
    by_id = {row["id"]: row for row in told}
    best, named, unknown, bad = (by_id[row["id"].removeprefix("batch_req_")] for row in written)
    assert (best["status"], best["answered"], best["model"]) == (200, "aggregated", "symmoe/best")
    assert {"total", "route", "wait", "load", "generate", "score", "aggregate"} <= set(best["seconds"])
    assert (named["answered"], named["experts"], named["path"]) == ("named", ["adder"], "/v1/chat/completions")
    assert named["tokens"]["completion"] > 0
    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    assert "model" not in unknown
    assert (bad["status"], bad["code"]) == (400, "invalid_json_line")


def test_a_line_that_was_asked_again_is_one_row_that_says_how_often(folder: Path) -> None:
    file = folder / "log"
    with running(
        folder, Settings(log="json", log_file=str(file), batch_lease=1.0, most_waiting=1), engine={"max_num_seqs": 1}
    ) as served:
        held = {**secret(0, "adder")["body"], "messages": [{"role": "user", "content": "hold"}]}
        batch = start(served.openai, [secret(0, "adder") | {"body": held}, secret(1, "adder"), secret(2, "adder")])
        until(lambda: served.metric('symmoe_batch_lines_total{outcome="retried"}') >= 1)
        served.engine.released.set()
        ended(served.openai, batch)
    told = [row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()) if "batch" in row]
    assert [row["status"] for row in told] == [200] * 3
    assert len({row["id"] for row in told}) == 3
    assert max(row.get("tries", 1) for row in told) > 1


def test_what_a_line_asked_is_there_where_that_is_switched_on(folder: Path) -> None:
    file = folder / "log"
    with running(folder, Settings(log="json", log_file=str(file), log_prompts=True, batch_lease=1.0)) as served:
        ended(served.openai, start(served.openai, [secret(0, "adder")]))
    (told,) = [row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()) if "batch" in row]
    assert told["messages"] == [{"role": "user", "content": f"sums {SECRET}"}]


def test_each_line_is_a_span_with_its_stages_within(folder: Path) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    spans, provider = memory.InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telemetry, "of", lambda settings: Telemetry(None, Traces(provider)))
        with running(folder, Settings(batch_lease=1.0), routing={"top_p": 0.9}, aggregation={"trust": 1.0}) as served:
            over = ended(served.openai, start(served.openai, [secret(0), secret(1, "broken nobody")]))
    found = spans.get_finished_spans()
    roots = [span for span in found if span.name == "batch line /v1/chat/completions"]
    assert {span.attributes["symmoe.batch_id"] for span in roots} == {over.id}
    by_status = {span.attributes["http.response.status_code"]: span for span in roots}
    assert set(by_status) == {200, 404}
    below = {span.name for span in found if span.parent and span.parent.span_id == by_status[200].context.span_id}
    assert below == {"route", "expert", "score", "aggregate"}
    assert by_status[404].attributes["error.type"] == "model_not_found"
    assert SECRET not in "".join(f"{span.name} {dict(span.attributes)}" for span in found)


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_lines_appear_on_stderr_and_no_other(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--pool", str(echo_pool(tmp_path)), "--port", str(port), "--log", "json"]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    root = Path(__file__).parents[3]
    with psutil.Popen(command, cwd=root, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert "is ready at" in process.stdout.readline()
        body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=body, headers={"x-request-id": "mine"}, timeout=60).status_code == 200
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    line, *rest = said.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["experts"]) == ("mine", ["adder"])
    assert rest == ["finishing open requests"]
