"""What is counted of batches, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class BatchMetrics:
    """The batches' part of one ingress's counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lines = Counter("symmoe_batch_lines", "Lines of batches", ("outcome",), registry=registry)
        self._states = Counter("symmoe_batch_states", "Batches that came into a state", ("state",), registry=registry)
        self._open = Gauge("symmoe_batches_open", "Batches that are not over, of all ingresses", registry=registry)
        self._running = Gauge("symmoe_batches_running", "Batches that this ingress works on", registry=registry)

    def line(self, outcome: str) -> None:
        """A line was `answered`, has `failed`, or is `retried`."""
        self._lines.labels(outcome).inc()

    def entered(self, state: str) -> None:
        """A batch came into a state, here."""
        self._states.labels(state).inc()

    def there_are(self, opened: int, running: int) -> None:
        """So many are not over, and so many run here."""
        self._open.set(opened)
        self._running.set(running)
