"""The reward replica on Ray Serve, and what becomes of answers when it is killed or hangs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from symmoe.deployments.serving import Served, serving
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from tests.conftest import echo_pool
from tests.deployments.judging import troubled_scorers
from tests.deployments.test_serve import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),  # Ray Serve's own models
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scored")


@pytest.fixture(scope="module")
def served(ray_here: None, place: Path) -> Iterator[Served]:
    pool = read_pool(str(echo_pool(place, reward={"model": "starter"})))
    settings = Settings(cpus=1, reward_cpus=0.5, stall=3.0, slowest_verdict=1.0)
    with serving(pool, settings, port=free_port(), build=troubled_scorers) as service:
        service.wait_until_ready()
        yield service


def judged(served: Served, text: str) -> dict[str, Any]:
    """How the one answer of several experts came about."""
    body = {"model": "symmoe/best", "messages": [{"role": "user", "content": text}], "symmoe": {"explain": True}}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    (answer,) = response.json()["symmoe"]["answers"]
    return dict(answer)


def weighed_in(place: Path) -> set[int]:
    return {int(line) for line in (place / "weighed").read_text().split()}


def until_it_weighs(served: Served) -> None:
    until = time.monotonic() + 60
    while "records alone" in judged(served, "sums again")["why"]:
        assert time.monotonic() < until
        threading.Event().wait(0.5)


def unscored(served: Served) -> float:
    lines = httpx.get(f"{served.url}/metrics", timeout=20).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("symmoe_unscored_total "))


def test_it_weighs_in_a_process_of_its_own(served: Served, place: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: judged(served, f"sums {n}"), range(8)))
    assert [max(vote["share"] for vote in answer["votes"]) for answer in answers] == [1.0] * 8
    (pid,) = weighed_in(place)
    assert pid != os.getpid()
    assert unscored(served) == 0


@pytest.mark.parametrize("trouble", ["lostscorer", "hangscorer"])
def test_one_that_is_killed_or_hangs_costs_no_answer_and_is_replaced(served: Served, place: Path, trouble: str) -> None:
    until_it_weighs(served)
    before, lost = weighed_in(place), unscored(served)
    began = time.monotonic()
    answer = judged(served, f"sums {trouble}")
    assert time.monotonic() - began < 60  # a replica that hangs sleeps for an hour
    assert "weighed by the experts' records alone: the reward replica did not answer" in answer["why"]
    assert len(answer["votes"]) > 1
    assert unscored(served) == lost + 1
    until_it_weighs(served)
    assert not weighed_in(place) <= before
