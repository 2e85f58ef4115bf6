from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import httpx
import pytest
from symmoe.deployments.events import Asked, Begun, End, EngineState, Finished, Tell, TurnedAway
from symmoe.deployments.lifecycle.lifecycle import Failures, Lifecycle
from symmoe.deployments.lifecycle.roster import Decision, Roster, State
from symmoe.deployments.lifecycle.startup import first_to_load, reachable
from symmoe.deployments.serving import serving
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import Pool, read_pool
from symmoe.types import Generation
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, running, until
from tests.deployments.streaming_trouble import troubled_streams
from tests.deployments.test_serve import free_port
from tests.fakes import query


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Moody:
    """Experts that answer, but for those that are `broken`."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.asked: list[str] = []

    async def ask(self, asked: Asked, tell: Tell) -> End:
        self.asked.append(asked.expert)
        if asked.expert in self.broken:
            return TurnedAway(503, "expert_unavailable", "its weights are broken")
        tell(Begun(0.0, 0.0, "resident", False))
        return Finished(Generation("yes", "stop", 1, 1))

    async def warm(self) -> bool:
        return True

    async def engines(self) -> list[EngineState]:
        return []


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return read_pool(str(echo_pool(tmp_path, ("adder", "speaker", "sorter"))))


def test_failures_count_in_a_row_and_those_of_one_moment_once() -> None:
    clock = Clock()
    failures = Failures(3, clock=clock)
    assert [failures.failed("a") for _ in range(9)] == [False] * 9
    clock.now += 1
    assert not failures.failed("a")
    failures.answered("a")
    for _ in range(2):
        clock.now += 1
        assert not failures.failed("a")
        assert not failures.failed("b")
    clock.now += 1
    assert failures.failed("a")
    assert Failures(3).failed("a", on_trial=True)
    assert not Failures(0).failed("a", on_trial=True)


def test_the_service_quarantines_who_keeps_failing_for_a_while_and_then_tries_once_more(pool: Pool) -> None:
    clock, experts = Clock(), Moody("adder")

    async def play() -> None:
        lifecycle = Lifecycle(pool, experts, Settings(quarantine_after=3, quarantine_seconds=60), clock=clock)
        lifecycle.failures = Failures(3, clock=clock)

        async def ask(expert: str) -> str:
            asked = Asked("one", expert, query("sums"), "me", 10)
            last = await lifecycle.experts.ask(asked, lambda event: None)
            await asyncio.sleep(0)
            clock.now += 1
            return last.message if isinstance(last, TurnedAway) else "answered"

        assert [await ask("adder") for _ in range(3)] == ["its weights are broken"] * 3
        assert lifecycle.roster.state("adder") == "quarantined"
        assert lifecycle.roster.decision("adder").why == "failed 3 times in a row, last with expert_unavailable"
        assert await ask("adder") == "expert 'adder' is quarantined"
        assert experts.asked.count("adder") == 3
        clock.now += 60
        assert lifecycle.roster.state("adder") == "active"
        assert await ask("adder") == "its weights are broken"
        assert await ask("adder") == "expert 'adder' is quarantined"
        clock.now += 60
        experts.broken.clear()
        assert await ask("adder") == "answered"
        experts.broken.add("adder")
        assert await ask("adder") == await ask("adder") == "its weights are broken"
        assert lifecycle.roster.state("adder") == "active"

    asyncio.run(play())


def test_the_service_never_leaves_fewer_than_half_of_the_experts(pool: Pool) -> None:
    roster = Roster(pool)
    assert roster.dispensable("adder")
    roster.apply({"adder": Decision("quarantined")})
    assert not roster.dispensable("adder")
    assert not roster.dispensable("speaker")
    assert not roster.dispensable("nobody")


def test_nobody_is_asked_before_it_is_known_who_may_be(pool: Pool) -> None:
    roster = Roster(pool, known=False)
    refusal = roster.refusal("adder")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (503, "store_unavailable")
    roster.apply({})
    assert roster.refusal("adder") is None


def test_what_is_decided_reads_back_equal_and_what_another_version_wrote_is_passed_over(pool: Pool) -> None:
    expert = {"model": "org/base", "adapter": "./poet"}
    decision = Decision("quarantined", "why", 5.0, 9.0, expert, {"overall": [1, 0], "skills": {"sums": [1, 0]}})
    assert Decision.parse(decision.row().encode()) == decision
    for strange in (b"", b"[]", b'{"state": "dancing"}', b'{"more": 1}', b"\xff"):
        assert Decision.parse(strange) is None
    roster = Roster(pool, clock=Clock())
    roster.apply({"poet": Decision(expert={"model": "org/base", "later": 1}), "gone": Decision("draining")})
    assert (roster.pool.names, roster.decisions) == (pool.names, {})


def test_a_newcomer_that_the_pool_file_names_by_now_is_the_pool_files(pool: Pool) -> None:
    roster = Roster(pool)
    roster.apply({"adder": Decision(expert={"model": "org/other"})})
    assert roster.newcomer("adder") is None
    assert roster.pool.expert("adder").model == "org/base"


def decide(stored_pool: Pool, **states: State) -> None:
    """What an operator decided about experts while a service ran that is over."""

    async def deciding() -> None:
        storage = Storage()
        lifecycle = Lifecycle(stored_pool, Moody(), Settings(), storage)
        for name, state in states.items():
            await lifecycle.put(name, state)
        await storage.close()

    asyncio.run(deciding())


@pytest.fixture
def stored_pool(tmp_path: Path, state: Path) -> Pool:
    return read_pool(str(echo_pool(tmp_path / "pool")))


def test_where_nothing_was_decided_it_is_the_pools_first_and_no_store_is_started(
    stored_pool: Pool, state: Path
) -> None:
    assert first_to_load(stored_pool) == "adder"
    assert not (state / "valkey.lock").exists()


def test_it_is_the_first_that_may_be_asked(stored_pool: Pool) -> None:
    decide(stored_pool, adder="quarantined")
    assert first_to_load(stored_pool) == "speaker"
    decide(stored_pool, speaker="draining")
    assert first_to_load(stored_pool) == "sorter"
    decide(stored_pool, sorter="removed")
    assert first_to_load(stored_pool) is None
    decide(stored_pool, adder="active")
    assert first_to_load(stored_pool) == "adder"


def test_where_the_store_cannot_tell_it_is_nobody_after_a_while(
    stored_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nowhere.sock")
    assert first_to_load(stored_pool, patience=0.6) is None


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
    stored_pool = read_pool(str(echo_pool(tmp_path, name="anew")))
    decide(stored_pool, adder="quarantined")
    with serving(stored_pool, Settings(), port=free_port(), build=troubled_streams) as served:
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

    stored_pool = read_pool(str(echo_pool(tmp_path, name="anew")))
    (tmp_path / "loading").touch()
    with serving(stored_pool, Settings(), port=free_port(), build=troubled_streams) as served:
        until(lambda: served.handle.readiness.remote().result(timeout_s=30) == "starting")
        assert state() == "DEPLOYING"
        served.wait_until_ready(stopped=lambda: True)  # can be interrupted
        (tmp_path / "loading").unlink()
        served.wait_until_ready()
        assert state() == "RUNNING"
        assert httpx.get(f"{served.url}/ready", timeout=20).status_code == 200


def looks(*states: Mapping[str, str], seconds: float) -> int:
    """How often is looked, each time so much later, at what the states say one after the other, the last for ever."""
    seen: list[Mapping[str, str]] = []
    later = count(0, seconds)

    def look() -> Mapping[str, str]:
        seen.append(states[min(len(seen), len(states) - 1)])
        return seen[-1]

    asyncio.run(reachable(look, "here", lambda: float(next(later))))
    return len(seen)


@pytest.mark.parametrize(
    ("states", "seconds", "expected"),
    [
        (({"here": "HEALTHY"},), 1.0, 1),
        (({}, {"here": "STARTING", "there": "HEALTHY"}, {"here": "HEALTHY"}), 1.0, 3),
        (({"there": "HEALTHY"},), 2.5, 2),
        (({"here": "STARTING"},), 25.0, 2),
    ],
    ids=["it takes requests", "it comes", "none comes here", "it does not come up"],
)
def test_a_replica_waits_for_the_proxy_beside_it(
    states: tuple[Mapping[str, str], ...], seconds: float, expected: int
) -> None:
    assert looks(*states, seconds=seconds) == expected
