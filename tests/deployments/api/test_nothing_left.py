"""What a service holds of requests that are over: nothing."""

from __future__ import annotations

import gc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import keyed, make_key

from .conftest import Running, until

GAUGES = ("symmoe_open_requests", "symmoe_expert_open", "symmoe_queue", "symmoe_running")
MODELS = ("adder", "speaker", "broken", "nobody", "symmoe/auto", "symmoe/fast", "symmoe/best")


def idle(served: Running) -> bool:
    """Whether the service and its engine say that nothing is asked, waits or runs."""
    told = [line.rsplit(" ", 1) for line in served.get("/metrics").text.splitlines() if line.startswith(GAUGES)]
    return bool(told) and all(float(value) == 0 for _, value in told)


def ask(client: httpx.Client, number: int) -> None:
    """One request of all kinds; of every fifth the answer is not read."""
    body = {"model": MODELS[number % 7], "messages": [{"role": "user", "content": f"spanish sums {number}"}]}
    body |= {"stream": number % 3 == 0, "n": 1 + number % 2, "temperature": 0.5, "seed": number}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if number % 5:
            response.read()


def census() -> int:
    gc.collect()
    counts = Counter(str(type(each).__module__).partition(".")[0] for each in gc.get_objects())
    return counts["symmoe"] + counts["fastapi"] + counts["starlette"] + counts["asyncio"] + counts["_asyncio"]


def test_of_requests_that_are_over_nothing_is_held(tmp_path: Path, state: Path) -> None:
    key, _ = make_key()
    with ExitStack() as stack:
        served = stack.enter_context(keyed(tmp_path, Settings(quarantine_after=0)))
        headers = {"authorization": f"Bearer {key}"}
        client = stack.enter_context(httpx.Client(base_url=served.url, headers=headers, timeout=20))
        threads = stack.enter_context(ThreadPoolExecutor(8))
        for part in range(3):
            before = census()
            list(threads.map(lambda number: ask(client, number), range(70 * part, 70 * (part + 1))))
            until(lambda: idle(served))
            served.engine.forget()
        until(lambda: census() - before < 35)  # half an object for each request would be seen; the last go later
