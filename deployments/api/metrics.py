"""What the service counts, for Prometheus. Labels hold names out of the pool and codes, never what a client wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..orchestrator import Report

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """The counters of one ingress."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("symmoe_requests", "Requests", ("endpoint", "status"), registry=self.registry)
        self._open = Gauge("symmoe_open_requests", "Requests that are being answered", registry=self.registry)
        self._answers = Counter("symmoe_answers", "Answers, by how they came about", ("path",), registry=self.registry)
        self._asked = Counter("symmoe_generations", "Generations", ("expert", "lane"), registry=self.registry)
        self._loads = Counter("symmoe_loads", "Experts made ready", ("expert", "lane"), registry=self.registry)
        self._tokens = Counter("symmoe_tokens", "Tokens", ("expert", "kind"), registry=self.registry)
        self._route = self._histogram("symmoe_route_seconds", "Deciding who answers")
        self._wait = self._histogram("symmoe_wait_seconds", "Waiting for an expert's turn")
        self._load = self._histogram("symmoe_load_seconds", "Making an expert ready")
        self._first = self._histogram("symmoe_first_token_seconds", "From a request to its first text")
        self._total = self._histogram("symmoe_request_seconds", "From a request to its end")

    def opened(self, count: int) -> None:
        """So many requests are being answered."""
        self._open.set(count)

    def answered(self, endpoint: str, status: int) -> None:
        """A request got its response, or its first part."""
        self._requests.labels(endpoint, str(status)).inc()

    def reported(self, report: Report) -> None:
        """A request for an answer is over."""
        self._answers.labels(report.routed.path).inc()
        if report.routed.skills is not None:
            self._route.observe(report.routed.seconds)
        for share in report.shares:
            self._asked.labels(share.expert, share.begun.lane).inc()
            self._wait.observe(share.begun.waited)
            self._tokens.labels(share.expert, "prompt").inc(share.generation.prompt_tokens)
            self._tokens.labels(share.expert, "completion").inc(share.generation.completion_tokens)
            if share.begun.first:
                self._loads.labels(share.expert, share.begun.lane).inc()
                self._load.observe(share.begun.load)
        for histogram, seconds in ((self._first, report.first_token), (self._total, report.total)):
            if seconds is not None:
                histogram.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self.registry)
