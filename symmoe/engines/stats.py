"""vLLM's counts of its steps as plain numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from symmoe.types import BETWEEN_TOKENS_BOUNDS, FIRST_TOKEN_BOUNDS, EngineStats, Histogram


class StatsRecorder:
    """Replaces a vLLM engine's own loggers, whose metrics page nobody could reach.

    vLLM passes it the counts of its scheduler and of each step (`vllm.v1.metrics.stats`).
    """

    def __init__(self) -> None:
        self._running = self._waiting = 0
        self._usage = 0.0
        self._begin()

    def _begin(self) -> None:
        self._prompt = self._generation = self._preemptions = self._queries = self._hits = 0
        self._first, self._between = _Durations(FIRST_TOKEN_BOUNDS), _Durations(BETWEEN_TOKENS_BOUNDS)

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Count one step; called by vLLM."""
        if scheduler_stats is not None:
            self._running = scheduler_stats.num_running_reqs
            self._waiting = scheduler_stats.num_waiting_reqs + getattr(scheduler_stats, "num_skipped_waiting_reqs", 0)
            self._usage = scheduler_stats.kv_cache_usage
            self._queries += scheduler_stats.prefix_cache_stats.queries
            self._hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self._prompt += iteration_stats.num_prompt_tokens
            self._generation += iteration_stats.num_generation_tokens
            self._preemptions += iteration_stats.num_preempted_reqs
            self._first.note(iteration_stats.time_to_first_tokens_iter)
            self._between.note(iteration_stats.inter_token_latencies_iter)

    def log(self) -> None:
        """Does nothing; vLLM calls it to write a log."""

    def record_sleep_state(self, *_: Any) -> None:
        """Does nothing; vLLM calls it when an engine sleeps or wakes."""

    def taken(self) -> EngineStats:
        """What was counted since the last call of this method."""
        stats = EngineStats(
            self._running, self._waiting, self._usage, self._prompt, self._generation, self._preemptions, self._queries,
            self._hits, self._first.histogram(), self._between.histogram(),
        )  # fmt: skip
        self._begin()
        return stats


def recorded(engine: Any) -> StatsRecorder:
    """Attach a recorder to an `LLMEngine` or `AsyncLLM` that was made with `disable_log_stats` off."""
    recorder = StatsRecorder()
    engine.logger_manager = recorder
    if logger_ref := getattr(engine, "_logger_ref", None):  # what the loop of an `AsyncLLM` looks at
        logger_ref[0] = recorder
    return recorder


class _Durations:
    """Durations counted by bounds, which are inclusive as Prometheus has them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._seconds = bounds, [0] * (len(bounds) + 1), 0.0

    def note(self, durations: Sequence[float]) -> None:
        for seconds in durations:
            self._counts[bisect_left(self._bounds, seconds)] += 1
            self._seconds += seconds

    def histogram(self) -> Histogram:
        return Histogram(tuple(self._counts), self._seconds)
