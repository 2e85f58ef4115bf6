"""Engines that are ended when nobody asks, and started for who asks then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from symmoe.deployments.events import Asked, End, TurnedAway
from symmoe.deployments.experts import RayExperts
from symmoe.deployments.serving import Served, serving
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from symmoe.types import Message, Query, Sampling
from tests.conftest import echo_pool
from tests.deployments.streaming_trouble import troubled_streams
from tests.deployments.test_serve import ask, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray Serve's own models
]
IDLE = 2.0


@pytest.fixture(scope="module")
def served(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pool = read_pool(str(echo_pool(tmp_path_factory.mktemp("scaled"))))
    settings = Settings(least=0, idle=IDLE, longest_wait=120.0)
    with serving(pool, settings, port=free_port(), build=troubled_streams) as service:
        service.wait_until_ready()
        yield service


def replicas() -> int:
    """How many expert replicas run."""
    from ray import serve

    status = serve.status().applications["symmoe"].deployments["experts"]
    return sum(status.replica_states.values())


def wait_for(count: int, served: Served, seconds: float) -> float:
    """Wait until so many run, while the metrics are scraped as always; how long it took."""
    began = time.monotonic()
    while replicas() != count:
        assert time.monotonic() < began + seconds
        assert httpx.get(f"{served.url}/metrics", timeout=20).is_success
        threading.Event().wait(0.5)
    return time.monotonic() - began


def test_idle_engines_end_and_the_next_request_starts_one(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)
    for number, stream in enumerate((False, True)):
        wait_for(0, served, 160)
        began = time.monotonic()
        if stream:
            messages = [{"role": "user", "content": "sums"}]
            parts = list(client.chat.completions.create(model="symmoe/auto", messages=messages, stream=True))  # type: ignore[call-overload]
            assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "adder: sums"
        else:
            assert ask(client, f"sums {number}", "symmoe/auto") == f"adder: sums {number}"
        assert time.monotonic() - began < 60
        assert httpx.get(f"{served.url}/ready", timeout=20).status_code == 200


def test_who_waits_too_long_for_an_engine_is_told_so_in_time(served: Served) -> None:
    import asyncio

    from ray import serve

    wait_for(0, served, 160)
    experts = RayExperts(serve.get_deployment_handle("experts", "symmoe"), rest=True)

    async def asking(stream: bool) -> End:
        query = Query("0", (Message("user", "sums"),), Sampling(4))
        return await experts.ask(Asked(f"late-{stream}", "adder", query, "me", 0.05, stream), lambda event: None)

    for stream in (False, True):
        began = time.monotonic()
        event = asyncio.run(asking(stream))
        assert isinstance(event, TurnedAway)
        assert (event.status, event.code, event.retry_after) == (503, "waited_too_long", 5.0)
        assert time.monotonic() - began < 60  # not the two minutes that others may wait
