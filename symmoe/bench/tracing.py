"""`symmoe bench tracing`: the cost of keeping traces in a service, and the time of searches among many.

One service in this process, with its own store, is asked by clients in another process while it keeps no traces,
traces without texts, and traces with texts, in the order a b c c b a, so that a steady drift cancels in the ratios of a
block. The engine echoes and questions are routed by a static embedder, so that the share of tracing is as large as
possible.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from symmoe.bench.clients import Ask, Load, Outcome, closed, run, summary, texts
from symmoe.bench.grouping import serving_here
from symmoe.bench.lines import echoing
from symmoe.bench.machine import cores_in_use, in_environment, own_state
from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.deployments.api.service import Service
from symmoe.deployments.settings import Settings
from symmoe.deployments.telemetry.trace_store import POLICIES, KeptTraces, Sought
from symmoe.errors import EngineError
from symmoe.policy import AUTO

FALL_TARGET = 0.03
"""The share of requests per second that a service may lose by keeping traces."""
SEARCH_TARGET_MS = 200.0
"""The slowest search may take so many milliseconds."""
_CLIENTS = 8
_TOKENS = 16
_SEARCHES = 20
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class TracingLoad:
    """The load: `blocks` of six rounds, `requests` in each round, and the number of `traces` to search."""

    blocks: int = 12
    requests: int = 400
    traces: int = 10_000
    seed: int = 0


Crowd = Callable[[str, Load], list[Outcome]]
"""Sends a load to the service at a URL and returns the outcome of every request."""


class _Running:
    """A running service and its traces."""

    def __init__(self, url: str, service: Service, kept: KeptTraces, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self._service, self._kept, self._loop = url, service, kept, loop

    def keep(self, policy: str) -> None:
        """Keep traces by this policy from now on."""
        self._kept.texts = policy == "text"
        self._service.telemetry.kept = None if policy == "off" else self._kept

    def flush(self) -> float:
        """Write all pending traces. Returns the seconds it took."""
        began = time.perf_counter()
        asyncio.run_coroutine_threadsafe(self._kept.write(), self._loop).result()
        return time.perf_counter() - began

    def count(self, most: int) -> int:
        """The number of traces kept, counted up to `most`."""
        found = asyncio.run_coroutine_threadsafe(self._kept.search(Sought(), most), self._loop).result()
        return len(found)

    @property
    def lost(self) -> int:
        """Traces that could not be written."""
        return self._kept.lost


def measure_tracing(pool: Pool, load: TracingLoad, tell: Callable[[str], None] = lambda now: None) -> dict[str, Any]:
    """Requests per second and CPU time by policy, milliseconds by search, and whether the bars are met.

    Raises `EngineError` if a request is not answered.
    """
    asks = [Ask(AUTO, text, _TOKENS) for text in texts(pool, load.requests, load.seed)]
    with (
        own_state() as environment,  # so that only its own traces are searched
        in_environment(environment),
        _served(echoing(pool), load) as served,
        clients_apart() as crowd,
    ):
        for policy in POLICIES:
            tell(f"warming up, traces {policy}")
            _round(served, crowd, policy, asks)
        rounds: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
        for block in range(load.blocks):
            tell(f"block {block + 1} of {load.blocks}")
            for policy in (*POLICIES, *reversed(POLICIES)):
                rounds[policy].append(_round(served, crowd, policy, asks))
        tell(f"searching among {load.traces} traces")
        if (missing := load.traces - served.count(load.traces)) > 0:
            _round(served, crowd, "text", list(islice(cycle(asks), missing)))
        served.keep("metadata")
        searches, lost = _searches(served), served.lost
    return {
        "pool": pool.name,
        "clients": _CLIENTS,
        "requests_per_round": load.requests,
        "blocks": load.blocks,
        "rounds": rounds,
        "median": {policy: _medians(rows) for policy, rows in rounds.items()},
        "times_off": {policy: _compared(rounds, policy, load.seed) for policy in POLICIES[1:]},
        "traces": load.traces,
        "traces_lost": lost,
        "search_ms": searches,
        **_bars(rounds, searches, load.seed),
    }


def _round(served: _Running, crowd: Crowd, policy: str, asks: Sequence[Ask]) -> dict[str, float]:
    """Send one load under a policy. Writing its last traces counts in its time."""
    served.keep(policy)
    cpu, own = time.process_time(), "service"
    with cores_in_use({own: [os.getpid()]}) as in_use:
        outcomes = crowd(served.url, closed(asks, _CLIENTS))
    flushed = served.flush()
    found = summary(outcomes)
    if found["kinds"].get("answer", 0) != len(asks):
        raise EngineError(f"not every request was answered: {found['kinds']}", hint=str(found.get("broken", "")))
    seconds = found["seconds"] + flushed
    return {
        "requests_per_second": round(len(asks) / seconds, 2),
        "cpu_ms": round(1000 * (time.process_time() - cpu) / len(asks), 4),
        "p50_ms": found["latency_ms"]["p50"],
        "cores_taken_by_others": in_use.others or 0.0,
    }


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def _compared(rounds: Mapping[str, Sequence[Mapping[str, float]]], policy: str, seed: int) -> dict[str, Any]:
    """For each figure, the median over blocks of its ratio to that without traces, with a 95 % interval."""
    found = {}
    for name in ("requests_per_second", "cpu_ms"):
        pairs = zip(_blocks(rounds[policy], name), _blocks(rounds["off"], name), strict=True)
        ratios = np.array([ours / theirs for ours, theirs in pairs])
        drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
        low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
        found[name] = {
            "median": round(float(np.median(ratios)), 4),
            "ci95": [round(float(low), 4), round(float(high), 4)],
        }
    return found


def _blocks(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """The mean of the two rounds of each block."""
    return [(first[name] + second[name]) / 2 for first, second in zip(rows[::2], rows[1::2], strict=True)]


def _bars(rounds: Mapping[str, Any], searches: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The bars and whether they are met; `sure` if the whole interval meets them."""
    bars: dict[str, dict[str, Any]] = {}
    for policy in POLICIES[1:]:
        times = _compared(rounds, policy, seed)["requests_per_second"]
        bars[f"fall of requests per second, {policy}"] = {
            "measured": round(1 - times["median"], 4),
            "bar": FALL_TARGET,
            "met": 1 - times["median"] <= FALL_TARGET,
            "sure": 1 - times["ci95"][0] <= FALL_TARGET,
        }
    slowest = max(row["max"] for row in searches.values())
    bars["slowest search, ms"] = {"measured": slowest, "bar": SEARCH_TARGET_MS, "met": slowest <= SEARCH_TARGET_MS}
    return {"bars": bars, "met": all(bar["met"] for bar in bars.values())}


def _searches(served: _Running) -> dict[str, dict[str, float]]:
    """Milliseconds of searches over HTTP; the last one, without a match, looks at all traces."""
    import httpx

    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
        named = client.get("/v1/traces?limit=1").json()["data"][0]
        queries = {
            "newest fifty": {"limit": "50"},
            "by id": {"id": named["id"]},
            "by expert and skill": {"expert": named["experts"][0], "skill": named["skills"][0], "limit": "50"},
            "by outcome, five hundred": {"outcome": named["outcome"], "limit": "500"},
            "nothing fits": {"expert": "nobody", "skill": "none", "outcome": "left"},
        }
        found = {}
        for name, query in queries.items():
            times = []
            for _ in range(_SEARCHES):
                began = time.perf_counter()
                client.get("/v1/traces", params=query).raise_for_status()
                times.append(1000 * (time.perf_counter() - began))
            found[name] = {"p50": round(statistics.median(times), 1), "max": round(max(times), 1)}
    return found


@contextmanager
def clients_apart() -> Iterator[Crowd]:
    """Clients in one process for all rounds: starting one takes longer than a round."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_asking, args=(theirs,), daemon=True)
    process.start()
    theirs.close()

    def crowd(url: str, load: Load) -> list[Outcome]:
        try:
            ours.send((url, load))
            outcomes: list[Outcome] = ours.recv()
        except (EOFError, OSError) as error:
            raise EngineError("the process of the clients was lost") from error
        return outcomes

    try:
        yield crowd
    finally:
        ours.close()
        process.terminate()
        process.join()


def _asking(pipe: Any) -> None:
    """Send every load that arrives on a pipe, until it is closed. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError):
        while True:
            pipe.send(asyncio.run(run(*pipe.recv())))


@contextmanager
def _served(pool: Pool, load: TracingLoad) -> Iterator[_Running]:
    """Serve the pool in this process."""
    settings = Settings(traces="metadata", traces_most=load.traces, quarantine_after=0)
    with serving_here(pool, settings, Assembly, admin=True) as here:
        kept = here.service.telemetry.kept
        if kept is None:
            raise EngineError("the service keeps no traces")
        yield _Running(here.url, here.service, kept, here.loop)
