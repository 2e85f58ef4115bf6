"""Engines' own metrics, under vLLM's names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from symmoe.types import BETWEEN_TOKENS_BOUNDS, FIRST_TOKEN_BOUNDS, Histogram

from ..events import EngineState

LABELS = ("model_name", "engine")
"""The expert, and the replica whose engine counted: what is shown by several ingresses is the same value."""
_GAUGES = {
    "num_requests_running": ("running", "Requests that the engine runs"),
    "num_requests_waiting": ("waiting", "Requests in the engine that wait for room"),
    "kv_cache_usage_perc": ("kv_cache_usage", "Share of the cache of keys and values in use, 0 to 1"),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts"),
    "generation_tokens": ("generation_tokens", "Tokens generated"),
    "num_preemptions": ("preemptions", "Requests put off for want of room in the cache"),
    "prefix_cache_queries": ("prefix_cache_queries", "Tokens of prompts looked for in the cache"),
    "prefix_cache_hits": ("prefix_cache_hits", "Tokens of prompts found in the cache"),
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("first_token", FIRST_TOKEN_BOUNDS, "From a request's arrival to its first token"),
    "inter_token_latency_seconds": ("between_tokens", BETWEEN_TOKENS_BOUNDS, "From one token to the next"),
}


class EngineCollector:
    """Gives Prometheus the latest counts of `engines`."""

    def __init__(self) -> None:
        self.engines: Sequence[EngineState] = ()

    def collect(self) -> Iterator[Metric]:
        """Every metric family, empty where no engine counted anything. Gauges of experts that do not run are 0."""
        counted = [(engine, expert, stats) for engine in self.engines for expert, stats in engine.stats.items()]
        for name, (field, what) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"vllm:{name}", what, labels=LABELS)
            for engine, expert, stats in counted:
                runs = engine.expert == expert and engine.running
                gauge.add_metric((expert, engine.name), float(getattr(stats, field)) if runs else 0.0)
            yield gauge
        for name, (field, what) in _COUNTERS.items():
            counter = CounterMetricFamily(f"vllm:{name}", what, labels=LABELS)
            for engine, expert, stats in counted:
                counter.add_metric((expert, engine.name), getattr(stats, field))
            yield counter
        for name, (field, bounds, what) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"vllm:{name}", what, labels=LABELS)
            for engine, expert, stats in counted:
                histogram: Histogram = getattr(stats, field)
                sums = zip((*map(str, bounds), "+Inf"), accumulate(histogram.counts), strict=True)
                family.add_metric((expert, engine.name), list(sums), histogram.seconds)
            yield family
