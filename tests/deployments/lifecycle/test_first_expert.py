"""What a replica makes ready before anybody asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from symmoe.deployments.lifecycle.decision import State
from symmoe.deployments.lifecycle.first_expert import first_to_load
from symmoe.deployments.lifecycle.lifecycle import Lifecycle
from symmoe.deployments.serving import serving
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import Pool, read_pool
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, running, until
from tests.deployments.lifecycle.test_rule import Moody
from tests.deployments.streaming_trouble import troubled_streams
from tests.deployments.test_serve import free_port


def decide(pool: Pool, **states: State) -> None:
    """What an operator decided about experts while a service ran that is over."""

    async def deciding() -> None:
        storage = Storage()
        lifecycle = Lifecycle(pool, Moody(), Settings(), storage)
        for name, state in states.items():
            await lifecycle.put(name, state)
        await storage.close()

    asyncio.run(deciding())


@pytest.fixture
def pool(tmp_path: Path, state: Path) -> Pool:
    return read_pool(str(echo_pool(tmp_path / "pool")))


def test_where_nothing_was_decided_it_is_the_pools_first_and_no_store_is_started(pool: Pool, state: Path) -> None:
    assert first_to_load(pool) == "adder"
    assert not (state / "valkey.lock").exists()


def test_it_is_the_first_that_may_be_asked(pool: Pool) -> None:
    decide(pool, adder="quarantined")
    assert first_to_load(pool) == "speaker"
    decide(pool, speaker="draining")
    assert first_to_load(pool) == "sorter"
    decide(pool, sorter="removed")
    assert first_to_load(pool) is None
    decide(pool, adder="active")
    assert first_to_load(pool) == "adder"


def test_where_the_store_cannot_tell_it_is_nobody_after_a_while(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nowhere.sock")
    assert first_to_load(pool, patience=0.6) is None


def resident(served: Running) -> str | None:
    until(lambda: served.get("/ready").status_code == 200)
    state = asyncio.run_coroutine_threadsafe(served.replica.state(), served.loop).result(10)
    return state.expert


def test_a_replica_makes_ready_whom_it_is_told_or_nobody_and_answers_all_the_same(tmp_path: Path, state: Path) -> None:
    for first in ("sorter", None):
        with running(tmp_path, Settings(), first=first) as served:
            assert resident(served) == first
            assert served.engine.started == (first is not None)
            answer = served.post(json={"model": "speaker", "messages": [{"role": "user", "content": "spanish"}]})
            assert answer.json()["choices"][0]["message"]["content"] == "speaker: spanish"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_a_service_that_starts_anew_does_not_touch_a_quarantined_expert(ray_here: None, tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path, name="anew")))
    decide(pool, adder="quarantined")
    with serving(pool, Settings(), port=free_port(), build=troubled_streams) as served:
        served.wait_until_ready()
        (engine,) = httpx.get(f"{served.url}/v1/admin/experts", timeout=20).json()["engines"]
    assert engine["expert"] == "speaker"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_it_is_running_once_an_expert_answers_and_not_before(ray_here: None, tmp_path: Path) -> None:
    """What KubeRay waits for before it switches traffic, and `kubectl wait` for its Ready."""
    from ray import serve

    def state() -> str:
        return serve.status().applications["symmoe"].status.value

    pool = read_pool(str(echo_pool(tmp_path, name="anew")))
    (tmp_path / "loading").touch()
    with serving(pool, Settings(), port=free_port(), build=troubled_streams) as served:
        until(lambda: served.handle.readiness.remote().result(timeout_s=30) == "starting")
        assert state() == "DEPLOYING"
        served.wait_until_ready(stopped=lambda: True)  # can be interrupted
        (tmp_path / "loading").unlink()
        served.wait_until_ready()
        assert state() == "RUNNING"
        assert httpx.get(f"{served.url}/ready", timeout=20).status_code == 200
