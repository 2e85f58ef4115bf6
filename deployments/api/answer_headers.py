"""A response's account of how it came about: always in headers, and in the body on request."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from symmoe.config import COST_UNITS
from symmoe.types import Answer, to_json

from ..order import Report
from ..telemetry.trace_store import spans_of

_SAFE = " ,:;=()/|>"
SCHEMA = "1"


def headers(report: Report) -> dict[str, str]:
    """The `x-symmoe-*` headers known so far. Times are in milliseconds."""
    routed = report.routed
    skills = routed.skills.matches if routed.skills else ()
    values: dict[str, str] = {
        "schema": SCHEMA,
        "path": routed.way,
        "experts": ",".join(report.asked),
        "skills": ",".join(match.skill for match in skills),
        "lanes": ",".join(dict.fromkeys(begun.lane for begun in report.begun)),
        "route-ms": _ms(routed.seconds),
        "wait-ms": _ms(max((begun.waited for begun in report.begun), default=0.0)),
        "load-ms": _ms(sum(begun.load for begun in report.begun)),
    }
    if report.rerouted and report.failures:
        failed_names = ",".join(dict.fromkeys(failed.expert for failed in report.failures))
        values["fallback"] = f"{failed_names}->{values['experts']}"
    hedges = [hedge for trace in report.traces for hedge in trace.hedges]
    if hedges:
        values["hedged"] = ";".join(f"{each.why}:{','.join(each.experts)}|{','.join(each.beside)}" for each in hedges)
    if report.first_token is not None:
        values["first-token-ms"] = _ms(report.first_token)
    if report.total is not None:
        values["total-ms"] = _ms(report.total)
    return {f"x-symmoe-{name}": quote(value, safe=_SAFE) for name, value in values.items()}


def explanation(report: Report) -> dict[str, Any]:
    """The same in full: skills, shares, standings, votes, and what each expert's generation took."""
    routed = report.routed
    return {
        "path": routed.way,
        "skills": [to_json(match) for match in routed.skills.matches] if routed.skills else [],
        "facets": list(routed.skills.facets) if routed.skills else [],
        "shares": dict(routed.recruitment.shares),
        "accuracies": dict(routed.recruitment.accuracies),
        "recruited": [assignment.expert for assignment in routed.recruitment.assignments],
        "asked": list(report.asked),
        "answers": [_answer(trace.answer) for trace in report.traces],
        "traces": [to_json(trace) for trace in report.traces],
        "generations": [
            {
                "expert": share.expert,
                "lane": share.begun.lane,
                "waited_seconds": share.begun.waited,
                "load_seconds": share.begun.load,
                "prompt_tokens": share.generation.prompt_tokens,
                "completion_tokens": share.generation.completion_tokens,
                "finish_reason": share.generation.finish_reason,
                "cost": share.cost / COST_UNITS,
            }
            for share in report.shares
        ],
        "spans": spans_of(report),
        "seconds": {"route": routed.seconds, "first_token": report.first_token, "total": report.total},
        "explanation": to_json(routed.explanation) if routed.explanation else None,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    votes = [{"answer": vote.answer, "share": vote.share, "experts": list(vote.experts)} for vote in answer.votes]
    return {"expert": answer.expert, "origin": answer.origin, "why": answer.why, "votes": votes}


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
