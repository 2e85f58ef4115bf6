"""Lines of batches are told of as online requests are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.settings import Settings
from symmoe.deployments.telemetry.telemetry import Telemetry
from symmoe.deployments.telemetry.traces import Traces

from tests.deployments.api.conftest import running, until
from tests.deployments.batches.conftest import ended, line, rows_of, start, state_in

SECRET = "the-secret-question"


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


def test_what_was_asked_is_there_where_that_is_switched_on(folder: Path) -> None:
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
