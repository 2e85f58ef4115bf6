from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage
from symmoe.deployments.telemetry import trace_store as kept
from symmoe.deployments.telemetry.note import Note
from symmoe.deployments.telemetry.telemetry import Telemetry, Traces, traces_of_environment

from symmoe.errors import ConfigError
from tests.deployments.access.conftest import contents
from tests.deployments.api.conftest import PATIENCE, Running, running, until
from tests.stores import state_in

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


TOGETHER: dict[str, Any] = {"aggregation": {"trust": 0.99}, "routing": {"top_p": 0.9}}
WORDS = "sums and spanish words"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("kept")
    with state_in(folder), running(folder, Settings(traces="text"), Open(True), **TOGETHER) as served:
        yield served


def ask_for_name(served: Running, text: str = WORDS, model: str = "symmoe/best", name: str = "", **more: Any) -> str:
    """Ask, and give the request's name."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return served.post(json=body, headers={"x-request-id": name} if name else {}).headers["x-request-id"]


def found(served: Running, query: str = "") -> list[dict[str, Any]]:
    response = served.get(f"/v1/traces{query}")
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def test_a_trace_tells_how_the_answer_came_about(served: Running) -> None:
    trace = served.get(f"/v1/traces/{ask_for_name(served)}").json()
    assert (trace["outcome"], trace["path"], trace["experts"]) == (
        "answered",
        "aggregated",
        ["adder", "speaker", "broken"],
    )
    assert trace["messages"] == [{"role": "user", "content": WORDS}]
    way = trace["symmoe"]
    assert [each["skill"] for each in way["skills"]] == ["sums", "spanish"]
    assert {each["expert"] for each in way["traces"][0]["candidates"]} == {"adder", "speaker", "broken"}
    assert way["traces"][0]["answer"]["votes"][0]["answer"].startswith("adder")
    assert [span["name"] for span in way["spans"]][:1] == ["route"]
    assert way["failures"] == [{"expert": "broken", "code": "expert_unavailable"}]


def test_it_is_found_by_what_it_was(served: Running) -> None:
    name = ask_for_name(served, "sorting", "sorter", name="my-own.name")
    whole = served.get(f"/v1/traces/{name}").json()
    for query in ("id=my-own.name", f"id={whole['id']}", "model=sorter", f"since={whole['at']}&expert=sorter"):
        assert [each["id"] for each in found(served, f"?{query}")] == [whole["id"]], query
    for query in ("expert=nobody", "outcome=left&expert=sorter", f"before={whole['at']}&model=sorter", "id=my-own"):
        assert found(served, f"?{query}") == [], query
    assert served.get("/v1/traces/none").json()["error"]["code"] == "trace_not_found"


def test_pages_follow_one_another(served: Running) -> None:
    names = [ask_for_name(served, "sums", "adder") for _ in range(5)]
    first = served.get("/v1/traces?model=adder&limit=3").json()
    rest = served.get(f"/v1/traces?model=adder&limit=3&before={first['data'][-1]['at']}").json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [each["request"] for each in (*first["data"], *rest["data"])] == names[::-1]


def test_what_fails_and_what_streams_is_kept_too(served: Running) -> None:
    failed = ask_for_name(served, "x", "broken")
    assert served.get(f"/v1/traces/{failed}").json()["outcome"] == "expert_unavailable"
    streamed = ask_for_name(served, stream=True)
    assert served.get(f"/v1/traces/{streamed}").json()["outcome"] == "answered"
    before = len(found(served))
    served.post("/v1/route", json={"model": "symmoe/auto", "messages": [{"role": "user", "content": "sums"}]})
    assert len(found(served)) == before


def test_what_experts_did_is_told_by_the_time(served: Running) -> None:
    trace = served.get(f"/v1/traces/{ask_for_name(served)}").json()
    found = served.get("/v1/admin/timeline?seconds=600").json()
    assert {each["expert"] for each in found["data"] if each["trace"] == trace["id"]} == {"adder", "speaker"}
    assert all(found["from"] <= each["at"] <= found["to"] for each in found["data"])
    assert served.get("/v1/admin/timeline?seconds=0").status_code == 400


def test_other_settings_are_answered_from_what_was_said(served: Running) -> None:
    path = f"/v1/traces/{ask_for_name(served)}/what-if"
    asked = len(served.engine.asked)
    without = served.post(path, json={"without": ["adder"]}).json()
    assert without["answer"]["text"] == f"speaker: {WORDS}"
    alone = served.post(path, json={"k": 1}).json()
    assert (alone["path"], alone["asked"], alone["complete"]) == ("single", ["adder"], True)
    published = served.post(path, json={"recruiter": "published-code", "k": 2}).json()
    assert published["explanation"]["recruiter"] == "published-code"
    unknown = served.post(path, json={"without": ["adder", "speaker", "broken"]}).json()
    assert (unknown["answer"], unknown["missing"]) == (None, ["sorter"])
    assert "on record" in unknown["refused"]
    assert len(served.engine.asked) == asked


def test_without_texts_nothing_that_was_said_is_in_the_store(tmp_path: Path) -> None:
    with state_in(tmp_path), running(tmp_path, Settings(traces="metadata"), Open(True), **TOGETHER) as served:
        name = ask_for_name(served, "sums and spanish secretly", symmoe={"explain": True})
        trace = served.get(f"/v1/traces/{name}").json()
        assert (trace["texts"], trace["messages"]) == (False, None)
        assert [each["expert"] for each in trace["symmoe"]["explanation"]["standings"]][:2] == ["adder", "speaker"]
        refused = served.post(f"/v1/traces/{name}/what-if", json={})
        assert refused.json()["error"]["code"] == "trace_without_texts"
        assert b"secretly" not in b"".join(str(each).encode() for each in contents().values())


def test_one_that_cannot_be_written_costs_no_other(served: Running) -> None:
    traces = served.service.telemetry.kept
    assert traces is not None
    before = traces.lost
    traces.add(Note("half", endpoint="/v1/chat/completions", model="a character \ud800"))
    assert [each["request"] for each in found(served, f"?id={ask_for_name(served)}")] != []
    assert traces.lost == before + 1


def test_the_oldest_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with state_in(tmp_path), running(tmp_path, Settings(traces="metadata", traces_most=3), Open(True)) as served:
        names = [ask_for_name(served, "sums", "adder") for _ in range(5)]
        assert [each["request"] for each in found(served)] == names[:1:-1]
        assert len([name for name in contents() if name.startswith(b"symmoe:trace:")]) == 3
        monkeypatch.setattr(kept, "TRACES_BYTES", 1)
        ask_for_name(served, "sums", "adder")
        assert found(served) == []
        assert not [name for name in contents() if name.startswith(b"symmoe:trace:")]


def test_no_key_and_no_batch_pushes_out_what_others_hold(tmp_path: Path) -> None:
    """Ten may be kept, of a friendly key that asks three times, its batch, and a hostile key that asks a hundred."""

    async def play() -> list[dict[str, Any]]:
        storage = Storage()
        traces = kept.KeptTraces(Breaker(storage, PATIENCE), False, 10, 1000.0)
        for turn in range(100):
            asking = [("friend", "batch_1"), ("hostile", ""), *([("friend", "")] if turn < 3 else [])]
            for key, batch in asking:
                traces.add(Note(f"{turn}", endpoint="/v1", model="adder", key=key, batch=batch, at=turn * 10**9))
            if turn % 7 == 0:
                await traces.write()
        found = await traces.search(kept.Sought(), 100)
        await storage.close()
        return found

    with state_in(tmp_path):
        held = asyncio.run(play())
    assert [each["request"] for each in held if (each["key"], each["batch"]) == ("friend", None)] == ["2", "1", "0"]
    counts = Counter((each["key"], each["batch"]) for each in held)
    assert sorted(counts.values()) == [3, 3, 4]
    assert {each["request"] for each in held if each["key"] == "hostile"} <= {"96", "97", "98", "99"}


def test_they_can_be_switched_off(tmp_path: Path) -> None:
    with state_in(tmp_path), running(tmp_path, Settings(traces="off"), Open(True)) as served:
        ask_for_name(served)
        assert served.get("/v1/traces").json()["error"]["code"] == "traces_off"
        assert not [name for name in contents() if name.startswith(b"symmoe:trace")]
    with pytest.raises(ConfigError, match="no policy"):
        kept.kept_traces(Settings(traces="some"), Storage())
