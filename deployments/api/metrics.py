"""The service's Prometheus metrics. Labels hold names from the pool and codes, never what a client wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from symmoe.config import COST_UNITS

from ..events import EngineState
from ..lifecycle.roster import STATES
from ..order import Report
from .engine_metrics import EngineCollector

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """The metrics of one ingress."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("symmoe_requests", "Requests", ("endpoint", "status"), registry=self.registry)
        self._open = Gauge("symmoe_open_requests", "Requests that are being answered", registry=self.registry)
        self._answers = Counter("symmoe_answers", "Answers, by how they came about", ("path",), registry=self.registry)
        self._asked = Counter("symmoe_generations", "Generations", ("expert", "lane"), registry=self.registry)
        self._loads = Counter("symmoe_loads", "Experts made ready", ("expert", "lane"), registry=self.registry)
        self._tokens = Counter("symmoe_tokens", "Tokens", ("expert", "kind"), registry=self.registry)
        self._cost = Counter(
            "symmoe_cost", "What answers cost, in the pool's currency", ("expert",), registry=self.registry
        )
        self._refused = Counter("symmoe_refused", "Requests refused by key or limit", ("why",), registry=self.registry)
        self._unchecked = Counter(
            "symmoe_limits_unchecked", "Limits not checked, the store being lost", registry=self.registry
        )
        self._cache = Counter(
            "symmoe_cache", "Orders that the cache was asked for", ("result",), registry=self.registry
        )
        self._loading = Counter(
            "symmoe_loading_seconds", "Seconds of making experts ready", ("expert", "lane"), registry=self.registry
        )
        self._failures = Counter(
            "symmoe_failures", "Generations that an expert did not give", ("expert", "code"), registry=self.registry
        )
        self._quarantines = Counter(
            "symmoe_quarantines", "Experts quarantined by the service itself", ("expert",), registry=self.registry
        )
        self._unscored = Counter(
            "symmoe_unscored", "Answers weighed by records alone, the reward model being lost", registry=self.registry
        )
        self._hedges = Counter(
            "symmoe_hedges", "Waves begun beside others, as time was short", ("why",), registry=self.registry
        )
        self._rerouted = Counter("symmoe_rerouted", "Questions for which others were found", registry=self.registry)
        self._aggregations = Counter(
            "symmoe_aggregations", "Answers of several experts; was the aggregator asked?", ("aggregator",),
            registry=self.registry,
        )  # fmt: skip
        self._state = self._gauge("symmoe_expert_state", "1 for the state that an expert is in", "expert", "state")
        self._asks = self._gauge("symmoe_expert_open", "Generations asked of an expert and not over", "expert")
        self._queue = self._gauge("symmoe_queue", "Generations that wait at the engines", "expert")
        self._running = self._gauge("symmoe_running", "Generations that run on the engines", "expert")
        self._stages = {
            "score": self._histogram("symmoe_score_seconds", "Weighing candidates"),
            "aggregate": self._histogram("symmoe_aggregate_seconds", "Making one answer of several"),
        }
        self._route = self._histogram("symmoe_route_seconds", "Deciding who answers")
        self._wait = self._histogram("symmoe_wait_seconds", "Waiting for an expert's turn")
        self._load = self._histogram("symmoe_load_seconds", "Making an expert ready")
        self._first = self._histogram("symmoe_first_token_seconds", "From a request to its first text")
        self._total = self._histogram("symmoe_request_seconds", "From a request to its end")
        self._engines = EngineCollector()
        self.registry.register(self._engines)

    def opened(self, count: int) -> None:
        """Set how many requests are being answered."""
        self._open.set(count)

    def answered(self, endpoint: str, status: int) -> None:
        """Count a response, when its headers are sent."""
        self._requests.labels(endpoint, str(status)).inc()

    def reported(self, report: Report) -> None:
        """Count what an answer took, once its request is over."""
        self._answers.labels(report.routed.way).inc()
        if report.routed.skills is not None:
            self._route.observe(report.routed.seconds)
        for share in report.shares:
            self._asked.labels(share.expert, share.begun.lane).inc()
            self._wait.observe(share.begun.waited)
            self._tokens.labels(share.expert, "prompt").inc(share.generation.prompt_tokens)
            self._tokens.labels(share.expert, "completion").inc(share.generation.completion_tokens)
            self._cost.labels(share.expert).inc(share.cost / COST_UNITS)
            if share.begun.first:
                self._loads.labels(share.expert, share.begun.lane).inc()
                self._load.observe(share.begun.load)
                self._loading.labels(share.expert, share.begun.lane).inc(share.begun.load)
        for failed in report.failures:
            self._failures.labels(failed.expert, failed.code).inc()
        for answer in (trace.answer for trace in report.traces):
            self._aggregations.labels("skipped" if answer.origin == "vote" else "asked").inc()
        for hedge in (hedge for trace in report.traces for hedge in trace.hedges):
            self._hedges.labels(hedge.why).inc()
        for stage in report.stages:
            self._stages[stage.name].observe(stage.seconds)
            self._unscored.inc(stage.failed)
        self._rerouted.inc(report.rerouted)
        for histogram, seconds in ((self._first, report.first_token), (self._total, report.total)):
            if seconds is not None:
                histogram.observe(seconds)

    def of_experts(self) -> dict[str, dict[str, Any]]:
        """What this ingress counted, by expert: `generations`, `loads` by `lanes` and what they took, and `failed`."""
        counted = {
            "generations": self._asked,
            "loads": self._loads,
            "loading_seconds": self._loading,
            "failed": self._failures,
        }
        by_expert: dict[str, dict[str, Any]] = {}
        for name, counter in counted.items():
            for sample in (each for metric in counter.collect() for each in metric.samples):
                if sample.name.endswith("_total"):
                    row = by_expert.setdefault(sample.labels["expert"], {**dict.fromkeys(counted, 0.0), "lanes": {}})
                    row[name] += sample.value
                    if name == "loads":
                        row["lanes"][sample.labels["lane"]] = sample.value
        return by_expert

    def quarantined(self, expert: str) -> None:
        """Count an expert that the service itself quarantined."""
        self._quarantines.labels(expert).inc()

    def looked(self, states: Mapping[str, str], opened: Mapping[str, int], engines: Sequence[EngineState]) -> None:
        """Set the state and open generations of every expert, and the engines' state and counts."""
        for gauge in (self._state, self._asks, self._queue, self._running):
            gauge.clear()
        for expert, state in states.items():
            for each in STATES[:-1]:
                self._state.labels(expert, each).set(float(state == each))
            self._asks.labels(expert).set(opened.get(expert, 0))
            self._queue.labels(expert).set(sum(engine.waiting.get(expert, 0) for engine in engines))
            self._running.labels(expert).set(sum(e.running for e in engines if e.expert == expert))
        self._engines.engines = engines

    def refused(self, why: str) -> None:
        """Count a refused request and the reason: `key`, `requests`, `tokens`, `budget`, `open` or `store`."""
        self._refused.labels(why).inc()

    def unchecked(self) -> None:
        """Count a request whose limits were not checked because the store did not answer."""
        self._unchecked.inc()

    def cached(self, result: str) -> None:
        """Count a cache lookup by its result: `hit`, `miss` or `unavailable`."""
        self._cache.labels(result).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self.registry)
