"""Traces: spans that follow the stages, under the client's own trace."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.settings import Settings
from symmoe.deployments.telemetry.telemetry import Telemetry
from symmoe.deployments.telemetry.traces import Traces, traces_of_environment

from tests.deployments.api.conftest import Running, running, until

sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "the-secret-question"


@pytest.fixture
def spans() -> Any:
    return memory.InMemorySpanExporter()


@pytest.fixture
def traced(tmp_path: Path, spans: Any) -> Iterator[Running]:
    """A service that writes its spans into memory."""
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telemetry, "of", lambda settings: Telemetry(None, Traces(provider)))
        with running(tmp_path, Settings(), routing={"top_p": 0.9}, aggregation={"trust": 1.0}) as served:
            yield served


def ask(served: Running, model: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": f"sums {SECRET}"}], **options}
    return served.post(json=body, headers=headers or {})


def finished(spans: Any, requests: int = 1) -> list[Any]:
    """All spans of so many requests; a request's own span ends after the others, and after its answer was read."""
    until(lambda: sum(span.name.startswith("POST") for span in spans.get_finished_spans()) == requests)
    return list(spans.get_finished_spans())


def test_a_request_is_a_span_and_its_stages_are_within_it(traced: Running, spans: Any) -> None:
    ask(traced, "symmoe/best", {"traceparent": TRACEPARENT})
    found = finished(spans)
    (root,) = [span for span in found if span.parent is not None and f"{span.parent.span_id:016x}" == PARENT]
    assert {f"{span.context.trace_id:032x}" for span in found} == {TRACE}
    assert root.name == "POST /v1/chat/completions"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.request.model"] == "symmoe/best"
    below = [span.name for span in found if span.parent and span.parent.span_id == root.context.span_id]
    assert sorted(set(below)) == ["aggregate", "expert", "route", "score"]
    expert = next(span for span in found if span.name == "expert")
    parts = [span for span in found if span.parent and span.parent.span_id == expert.context.span_id]
    assert {span.name for span in parts} >= {"wait", "generate"}
    assert expert.attributes["symmoe.expert"] in ("adder", "speaker", "sorter")
    for span in found:
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time + 1_000_000
    assert SECRET not in "".join(str(dict(span.attributes)) for span in found)


def test_the_first_of_an_experts_spans_says_how_long_loading_took(traced: Running, spans: Any) -> None:
    ask(traced, "sorter", stream=True)
    assert [span.name for span in finished(spans) if span.name == "load"] == ["load"]


@pytest.mark.parametrize("forged", ["", "x", f"00-{'0' * 32}-{PARENT}-01", "ff-" + TRACEPARENT, "\xff" * 300])
def test_a_forged_parent_is_none(traced: Running, spans: Any, forged: str) -> None:
    assert ask(traced, "adder", {"traceparent": forged.encode("latin-1")}).status_code == 200  # type: ignore[dict-item]
    roots = [span for span in finished(spans) if span.parent is None]
    assert len(roots) == 1


def test_a_refused_request_is_a_span_that_says_why(traced: Running, spans: Any) -> None:
    ask(traced, "nobody")
    ask(traced, "broken")
    unknown, broken = [span for span in finished(spans, 2) if span.name.startswith("POST")]
    assert unknown.attributes["error.type"] == "model_not_found"
    assert unknown.status.is_unset
    assert broken.attributes["error.type"] == "expert_unavailable"
    assert not broken.status.is_ok


def test_without_an_endpoint_there_are_no_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert traces_of_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert traces_of_environment() is None


def test_spans_are_sent_to_the_collector_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    came: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    file = tmp_path / "log"
    try:
        with running(tmp_path, Settings(log="json", log_file=str(file))) as served:
            ask(served, "adder", {"traceparent": TRACEPARENT})
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
    assert [path for path, _ in came] == ["/v1/traces"]
    assert bytes.fromhex(TRACE) in came[0][1]
    assert SECRET.encode() not in came[0][1]
    assert json.loads(file.read_text(encoding="utf-8"))["trace"] == TRACE
