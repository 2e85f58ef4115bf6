"""The state of a service from its metrics, for `symmoe top`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric with its labels."""

    labels: Labels
    value: float


class Samples:
    """The values of a page of metrics in Prometheus' text format. Raises `ValueError` for an invalid page."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))

    def sum(self, name: str, **labels: str) -> float:
        """The sum of a metric over all values that have these labels; 0 if there is none."""
        return sum(sample.value for sample in self._having(name, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The same for every value of a label."""
        totals: dict[str, float] = {}
        for sample in self._having(name, labels):
            key = sample.labels.get(label, "")
            totals[key] = totals.get(key, 0.0) + sample.value
        return totals

    def quantile(self, name: str, q: float) -> float | None:
        """A histogram's quantile as Prometheus estimates it, in its unit; None where nothing was observed."""
        by_bound = self.by(f"{name}_bucket", "le")
        buckets = sorted((float(bound), count) for bound, count in by_bound.items())
        total = buckets[-1][1] if buckets else 0.0
        if not total:
            return None
        below, before = 0.0, 0.0
        for bound, count in buckets:
            if count >= q * total:
                share = (q * total - before) / (count - before) if count > before else 1.0
                return below if bound == float("inf") else below + (bound - below) * share
            below, before = bound, count
        return below

    def _having(self, name: str, labels: Labels) -> list[Sample]:
        return [sample for sample in self._values.get(name, []) if labels.items() <= sample.labels.items()]


@dataclass(frozen=True, slots=True)
class ExpertView:
    """An expert: its state, its open work, and what it has done since the service started."""

    name: str
    state: str
    open: int
    waiting: int
    running: int
    resident: int
    generations: int
    prompt_tokens: int
    completion_tokens: int
    loads: int
    load_seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class View:
    """The whole service. Times are in seconds; lanes are how experts were made ready, with counts and times."""

    experts: tuple[ExpertView, ...]
    engines: tuple[Mapping[str, Any], ...]
    lanes: Mapping[str, tuple[int, float]]
    requests: Mapping[str, int]
    open: int
    answers: Mapping[str, int]
    latencies: Mapping[str, tuple[float | None, float | None]]
    rerouted: int
    aggregator: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(expert.completion_tokens for expert in self.experts)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


_LATENCIES = ("route", "wait", "load", "first_token", "request")


def view(text: str, admin: Mapping[str, Any] | None) -> View:
    """A view of a page of metrics and of the admin path's response, None where that is not allowed.

    Raises `ValueError` and `LookupError` for invalid input.
    """
    samples = Samples(text)
    engines = tuple(admin["engines"]) if admin is not None else ()
    failures = {row["name"]: int(row["failures"]) for row in admin["data"]} if admin is not None else {}
    names = samples.by("symmoe_expert_open", "expert")
    loads = samples.by("symmoe_loads_total", "lane")
    spent = samples.by("symmoe_loading_seconds_total", "lane")
    return View(
        experts=tuple(_expert(samples, name, engines, failures.get(name, 0)) for name in names),
        engines=engines,
        lanes={lane: (int(count), round(spent.get(lane, 0.0), 3)) for lane, count in sorted(loads.items())},
        requests=_whole(samples.by("symmoe_requests_total", "status", endpoint="/v1/chat/completions")),
        open=int(samples.sum("symmoe_open_requests")),
        answers=_whole(samples.by("symmoe_answers_total", "path")),
        latencies={
            name: (samples.quantile(f"symmoe_{name}_seconds", 0.5), samples.quantile(f"symmoe_{name}_seconds", 0.95))
            for name in _LATENCIES
        },
        rerouted=int(samples.sum("symmoe_rerouted_total")),
        aggregator=_whole(samples.by("symmoe_aggregations_total", "aggregator")),
    )


def _expert(samples: Samples, name: str, engines: tuple[Mapping[str, Any], ...], failures: int) -> ExpertView:
    states = samples.by("symmoe_expert_state", "state", expert=name)
    return ExpertView(
        name=name,
        state=next((state for state, on in states.items() if on), "unknown"),
        open=int(samples.sum("symmoe_expert_open", expert=name)),
        waiting=int(samples.sum("symmoe_queue", expert=name)),
        running=int(samples.sum("symmoe_running", expert=name)),
        resident=sum(engine["expert"] == name for engine in engines),
        generations=int(samples.sum("symmoe_generations_total", expert=name)),
        prompt_tokens=int(samples.sum("symmoe_tokens_total", expert=name, kind="prompt")),
        completion_tokens=int(samples.sum("symmoe_tokens_total", expert=name, kind="completion")),
        loads=int(samples.sum("symmoe_loads_total", expert=name)),
        load_seconds=round(samples.sum("symmoe_loading_seconds_total", expert=name), 3),
        failures=failures,
    )


def _whole(counts: Mapping[str, float]) -> dict[str, int]:
    return {name: int(count) for name, count in sorted(counts.items())}
