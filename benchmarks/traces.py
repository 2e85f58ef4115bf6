"""What keeping traces costs a service, and how long a search among 10,000 takes. No model is run.

    python benchmarks/traces.py --out out/bench/traces.json

Two services over the echo engine in this process, one that keeps traces and one that does not, are asked in turn by a
crowd in a process of its own; what is compared is requests per second, and this process's CPU time for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

CLIENTS, TRACES = 8, 10_000
BODY = {"model": "symmoe/auto", "messages": [{"role": "user", "content": "sums and spanish words"}]}


def crowd(pipe: Any) -> None:
    """Ask so often as is told by a pipe, so many at once, and tell how many seconds it took."""
    import httpx

    async def ask(url: str, count: int) -> float:
        left = iter(range(count))
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(timeout=60, limits=limits, verify=False) as client:  # noqa: S501  (no TLS)

            async def one() -> None:
                for _ in left:
                    (await client.post(f"{url}/v1/chat/completions", json=BODY)).raise_for_status()

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(CLIENTS)))
            return time.perf_counter() - began

    while (told := pipe.recv()) is not None:
        pipe.send(asyncio.run(ask(*told)))


def measure(rounds: int, count: int) -> dict[str, Any]:
    """Both services in turn, and then searches."""
    from symmoe.deployments.access.callers import Open
    from symmoe.deployments.settings import Settings

    from tests.deployments.api.conftest import running
    from tests.deployments.batches.conftest import state_in

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    asking = multiprocessing.get_context("spawn").Process(target=crowd, args=(theirs,), daemon=True)
    asking.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(state_in(Path(folder)))
        served = {
            policy: stack.enter_context(running(Path(folder) / policy, Settings(traces=policy), Open(True)))
            for policy in ("off", "metadata")
        }
        found: dict[str, list[dict[str, float]]] = {policy: [] for policy in served}

        def ask(policy: str, count: int) -> dict[str, float]:
            before = time.process_time()
            ours.send((served[policy].url, count))
            seconds = ours.recv()
            if policy != "off":
                asyncio.run_coroutine_threadsafe(
                    served[policy].service.telemetry.kept.write(), served[policy].loop
                ).result()
            return {"per_second": count / seconds, "cpu_ms": 1000 * (time.process_time() - before) / count}

        for policy in served:
            ask(policy, count)
        for number in range(rounds):
            for policy in ("off", "metadata") if number % 2 else ("metadata", "off"):
                found[policy].append(ask(policy, count))
                print(number, policy, found[policy][-1], file=sys.stderr)
        searches = _searches(served["metadata"], ask)
        ours.send(None)
    ratios = {
        name: [on[name] / off[name] for on, off in zip(found["metadata"], found["off"], strict=True)]
        for name in ("per_second", "cpu_ms")
    }
    return {
        "clients": CLIENTS,
        "requests": count,
        "rounds": found,
        "ratio": {name: round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_quartiles": {name: statistics.quantiles(values, n=4)[::2] for name, values in ratios.items()},
        "search": searches,
    }


def _searches(served: Any, ask: Any) -> dict[str, Any]:
    """Milliseconds of searches among 10,000 traces, over HTTP, the worst case last: nothing fits."""
    kept = served.service.telemetry.kept
    while len(served.get("/v1/traces?limit=1").json()["data"]) and _count() < TRACES:
        ask("metadata", min(1000, TRACES - _count()))
    named = served.get("/v1/traces?limit=1").json()["data"][0]
    queries = {
        "newest fifty": "limit=50",
        "by id": f"id={named['id']}",
        "by expert and skill": "expert=adder&skill=sums&limit=50",
        "five hundred": "limit=500",
        "nothing fits": "expert=nobody&skill=none&outcome=left",
    }
    shown: dict[str, Any] = {"traces": _count(), "lost": kept.lost}
    for name, query in queries.items():
        times = []
        for _ in range(20):
            began = time.perf_counter()
            served.get(f"/v1/traces?{query}").raise_for_status()
            times.append(1000 * (time.perf_counter() - began))
        shown[name] = {"p50_ms": round(statistics.median(times), 1), "max_ms": round(max(times), 1)}
    return shown


def _count() -> int:
    from tests.stores import connected

    client = connected()
    return int(client.zcard("symmoe:traces:all"))


def main() -> int:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("out/bench/traces.json"))
    told = parser.parse_args()
    report = measure(told.rounds, told.requests)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"ratio": report["ratio"], "search": report["search"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from a bare checkout
    sys.exit(main())
