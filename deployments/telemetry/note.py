"""What is noted of one request while it is answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from symmoe.types import Query, to_json

from ..order import Report


@dataclass(slots=True)
class Note:
    """One request. `endpoint` is the path's pattern, never what the client wrote in its place; `key` is a key's id.

    A line of a batch names its `batch`, and as `tries` how often it was asked. `began` is by `time.perf_counter`, `at`
    in nanoseconds since 1970. `query` is told only where the service's settings say so.
    """

    id: str
    method: str = ""
    endpoint: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    code: str = ""
    key: str = ""
    model: str = ""
    cache: str = ""
    batch: str = ""
    tries: int = 1
    query: Query | None = None
    report: Report | None = None
    began: float = field(default_factory=time.perf_counter)
    at: int = field(default_factory=time.time_ns)
    seconds: float = 0.0

    def end(self) -> None:
        """Set `seconds`: the request is over."""
        self.seconds = time.perf_counter() - self.began

    def facts(self) -> dict[str, Any]:
        """All of it but what was asked, as plain JSON types; seconds are rounded to the tenth of a millisecond."""
        request_facts = {
            "id": self.id,
            "method": self.method,
            "path": self.endpoint,
            "status": self.status,
            "code": self.code,
            "key": self.key,
            "model": self.model,
            "cache": self.cache,
            "batch": self.batch,
            "tries": self.tries if self.tries > 1 else "",
        }
        answer_facts = {} if self.report is None else _answered(self.report)
        times = {} if self.report is None else _times(self.report)
        seconds = {"total": round(self.seconds, 4), **{name: round(value, 4) for name, value in times.items()}}
        return {
            **{name: value for name, value in request_facts.items() if value != ""},
            **answer_facts,
            "seconds": seconds,
        }


def _answered(report: Report) -> dict[str, Any]:
    routed = report.routed
    facts: dict[str, Any] = {
        "answered": routed.way,
        "experts": list(report.asked),
        "skills": [match.skill for match in routed.skills.matches] if routed.skills else [],
        "lanes": list(dict.fromkeys(begun.lane for begun in report.begun)),
        "tokens": {"prompt": report.prompt_tokens, "completion": report.completion_tokens},
    }
    if report.traces:
        facts["origins"] = [trace.answer.origin for trace in report.traces]
    if hedges := [to_json(hedge) for trace in report.traces for hedge in trace.hedges]:
        facts["hedges"] = hedges
    if report.failures:
        facts["failures"] = [{"expert": failure.expert, "code": failure.code} for failure in report.failures]
    return {**facts, **({"rerouted": report.rerouted} if report.rerouted else {})}


def _times(report: Report) -> dict[str, float]:
    """Seconds by stage: the longest wait of its experts, all loading and generating together."""
    times = {"wait": max((begun.waited for begun in report.begun), default=0.0)}
    times["load"] = sum(begun.load for begun in report.begun)
    times["generate"] = sum(max(0.0, share.ended - share.asked - share.begun.waited) for share in report.shares)
    if report.routed.skills is not None:
        times["route"] = report.routed.seconds
    if report.first_token is not None:
        times["first_token"] = report.first_token
    for stage in report.stages:
        times[stage.name] = times.get(stage.name, 0.0) + stage.seconds
    return times


def messages_of(query: Query) -> list[dict[str, Any]]:
    """The conversation as plain JSON types; what a message has not is left out."""
    rows = [{name: value for name, value in asdict(message).items() if value} for message in query.messages]
    return [{**row, "images": len(row["images"])} if "images" in row else row for row in rows]
