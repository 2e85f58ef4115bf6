"""Outcomes as figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .load import Outcome

QUANTILES = {"p50": 0.5, "p99": 0.99}


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of them lies, interpolated; `values` may not be empty."""
    ranked = sorted(values)
    place = q * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


def milliseconds(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median and 99th percentile in milliseconds; None of nothing."""
    return {name: round(1000 * quantile(seconds, q), 2) for name, q in QUANTILES.items()} if seconds else None


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts by kind, answers and tokens per second, latency, and time to first token of what was streamed."""
    answers = [outcome for outcome in outcomes if outcome.kind == "answer"]
    seconds = max(o.ended for o in outcomes) - min(o.began for o in outcomes)
    return {
        "requests": len(outcomes),
        "kinds": dict(Counter(outcome.kind for outcome in outcomes)),
        "seconds": round(seconds, 3),
        "requests_per_second": round(len(answers) / seconds, 3),
        "tokens_per_second": round(sum(o.tokens for o in answers) / seconds, 1),
        "latency_ms": milliseconds([o.ended - o.began for o in answers]),
        "first_token_ms": milliseconds([o.first - o.began for o in answers if o.first is not None]),
        **_broken(outcomes),
    }


def longest_wait(outcomes: Sequence[Outcome]) -> float | None:
    """The longest time that a request waited for its expert, in seconds, as the service tells it."""
    waits = [float(outcome.told["wait-ms"]) for outcome in outcomes if "wait-ms" in outcome.told]
    return round(max(waits) / 1000, 3) if waits else None


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of the fastest round, least disturbed from outside."""
    return dict(max(rows, key=lambda row: float(row["requests_per_second"])))


def _broken(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What went wrong, by how often; nothing where nothing did."""
    why = Counter(outcome.why for outcome in outcomes if outcome.kind == "broken")
    return {"broken": dict(why.most_common(5))} if why else {}
