"""Telling of requests that are over, as is switched on: in a log, in spans for a collector, in traces in the store."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from symmoe.errors import ConfigError

from ..order import Report, Share
from ..settings import Settings
from .logs import RequestLog
from .note import Note, messages_of
from .trace_store import KeptTraces

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MILLISECONDS = 2000


class Traces:
    """Writes spans when a request is over, each with the times that were measured: nothing is done while it runs.

    A `traceparent` that the client sent is the parent. `prompts` says whether spans hold what was asked.
    """

    def __init__(self, provider: TracerProvider, prompts: bool = False) -> None:
        self._provider, self._prompts = provider, prompts
        self._tracer = provider.get_tracer("symmoe")

    def record(self, note: Note) -> str:
        """Write the spans of a request that is over; its trace's id, 32 hexadecimal digits."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(note.parents))
        kind, what = (SpanKind.INTERNAL, "batch line") if note.batch else (SpanKind.SERVER, note.method)
        name = f"{what} {note.endpoint}"
        root = self._tracer.start_span(name, parent, kind, self._attributes(note), start_time=note.at)
        if note.status >= 500:
            root.set_status(Status(StatusCode.ERROR, note.code))
        if note.report is not None and root.is_recording():
            self._stages(note, note.report, set_span_in_context(root))
        root.end(note.at + int(note.seconds * 1e9))
        return format_trace_id(root.get_span_context().trace_id)

    def close(self) -> None:
        """Send what is left, for two seconds at most, and stop."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()

    def _stages(self, note: Note, report: Report, inside: Context) -> None:
        zero = note.at + int((report.began - note.began) * 1e9)
        if report.routed.skills is not None:
            skills = [match.skill for match in report.routed.skills.matches]
            experts = list(report.asked)
            attributes = {"symmoe.skills": skills, "symmoe.experts": experts}
            self._span("route", zero, 0.0, report.routed.seconds, inside, attributes)
        for share in report.shares:
            self._share(share, zero, inside)
        for stage in report.stages:
            self._span(stage.name, zero, stage.began, stage.began + stage.seconds, inside, {})

    def _share(self, share: Share, zero: int, inside: Context) -> None:
        begun, generation = share.begun, share.generation
        attributes = {
            "symmoe.expert": share.expert,
            "symmoe.lane": begun.lane,
            "gen_ai.usage.input_tokens": generation.prompt_tokens,
            "gen_ai.usage.output_tokens": generation.completion_tokens,
            "gen_ai.response.finish_reasons": [generation.finish_reason],
        }
        context = self._span("expert", zero, share.asked, share.ended, inside, attributes)
        begins = share.asked + begun.waited
        loaded = begun.load if begun.first else 0.0
        self._span("wait", zero, share.asked, max(share.asked, begins - loaded), context, {})
        if loaded:
            self._span("load", zero, max(share.asked, begins - loaded), begins, context, {"symmoe.lane": begun.lane})
        self._span("generate", zero, begins, max(begins, share.ended), context, {})

    def _span(
        self, name: str, zero: int, began: float, ended: float, inside: Context, attributes: dict[str, Any]
    ) -> Context:
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(name, inside, attributes=attributes, start_time=zero + int(began * 1e9))
        span.end(zero + int(ended * 1e9))
        return set_span_in_context(span)

    def _attributes(self, note: Note) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "http.request.method": note.method,
            "http.route": note.endpoint,
            "http.response.status_code": note.status,
            "symmoe.request_id": note.id,
        }
        if note.batch:
            attributes |= {"symmoe.batch_id": note.batch, "symmoe.tries": note.tries}
        if note.model:
            attributes["gen_ai.request.model"] = note.model
        if note.code:
            attributes["error.type"] = note.code
        if note.report is not None:
            attributes["symmoe.path"] = note.report.routed.way
        if self._prompts and note.query is not None:
            messages = messages_of(note.query)
            attributes["gen_ai.input.messages"] = json.dumps(messages, ensure_ascii=False)
        return attributes


def traces_of_environment(prompts: bool = False) -> Traces | None:
    """Traces to where the standard `OTEL_*` variables say; None where they name no endpoint, or it is not installed."""
    named = any(os.environ.get(name) for name in _ENDPOINTS)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if not named or off:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        return None
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "symmoe")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider, prompts)


_LOGS = ("none", "json")


class Telemetry:
    """A log, traces that are sent, and traces that are `kept`, each of which may be None."""

    def __init__(self, log: RequestLog | None = None, traces: Traces | None = None, prompts: bool = False) -> None:
        self._log, self._traces, self._prompts = log, traces, prompts
        self.kept: KeptTraces | None = None

    @classmethod
    def of(cls, settings: Settings) -> Telemetry:
        """Telemetry as the settings and the `OTEL_*` variables say. Raises `ConfigError`."""
        if settings.log not in _LOGS:
            raise ConfigError(f"log: {settings.log!r} is no kind of log", hint=f"there are: {', '.join(_LOGS)}")
        log = RequestLog(settings.log_file) if settings.log == "json" else None
        return cls(log, traces_of_environment(settings.log_prompts), settings.log_prompts)

    def finish(self, note: Note) -> None:
        """Tell of a request that is over, in the log, the spans and the traces."""
        note.end()
        if self.kept is not None:
            self.kept.add(note)
        trace = None if self._traces is None else self._traces.record(note)
        if self._log is None:
            return
        facts = note.facts()
        if trace is not None:
            facts["trace"] = trace
        if self._prompts and note.query is not None:
            facts["messages"] = messages_of(note.query)
        self._log.write(facts)

    def close(self) -> None:
        """Send and write what is left. Blocks for a few seconds at most."""
        if self._traces is not None:
            self._traces.close()
        if self._log is not None:
            self._log.close()
