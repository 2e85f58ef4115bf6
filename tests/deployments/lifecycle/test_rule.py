"""When the service itself leaves an expert alone, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from symmoe.deployments.events import Asked, Begun, End, EngineState, Finished, Tell, TurnedAway
from symmoe.deployments.lifecycle.decision import Decision
from symmoe.deployments.lifecycle.failures import Failures
from symmoe.deployments.lifecycle.lifecycle import Lifecycle
from symmoe.deployments.lifecycle.roster import Roster
from symmoe.deployments.settings import Settings

from symmoe.config import Pool, read_pool
from symmoe.types import Generation
from tests.conftest import echo_pool
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
