"""Weighing by reward replicas: what comes together goes together, and a replica that fails costs no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from symmoe.deployments.scoring import Case, LocalScorer, ReplicaScorer, RewardExpert, Scoring, Weighed

from symmoe.scoring.weighing import RecordScorer
from symmoe.types import Assignment, Candidate, Query, Recruitment, Verdict
from tests.fakes import candidate, query

FOUND = (candidate("a", "yes"), candidate("b", "no"))
RECRUITED = Recruitment("q", (Assignment("q", "a", 0), Assignment("q", "b", 0)), {"a": 0.7, "b": 0.3})
LIKED = 0.9


class Liking:
    """A scorer that likes the last candidate, does not bear `bad` questions, and counts the cases of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def weigh(
        self, queries: Sequence[Query], found: Sequence[Sequence[Candidate]], recruitments: Sequence[Recruitment]
    ) -> list[list[Verdict]]:
        self.batches.append(len(queries))
        self.began.set()
        self.go.wait(10)
        if any("bad" in query.text for query in queries):
            raise ArithmeticError("of all things")
        return [[Verdict(c.expert, c.slot, LIKED * (c is row[-1])) for c in row] for row in found]


class Response:
    def __init__(self, given: Awaitable[Any], cancelled: list[bool]) -> None:
        self._given, self._cancelled = given, cancelled

    def __await__(self) -> Any:
        return self._given.__await__()

    def cancel(self) -> None:
        self._cancelled.append(True)


class Handle:
    """A deployment's handle; `answer` is what becomes of its batches."""

    def __init__(self, answer: Callable[[Sequence[Case]], Awaitable[Any]]) -> None:
        self.answer, self.batches, self.cancelled = answer, list[int](), list[bool]()
        self.weigh = self

    def remote(self, cases: Sequence[Case]) -> Response:
        self.batches.append(len(cases))
        return Response(self.answer(cases), self.cancelled)


async def weighed(scorer: Scoring, text: str = "what") -> Weighed:
    return await scorer.weigh(query(text), FOUND, RECRUITED)


def weights(given: Weighed) -> list[float]:
    return [verdict.weight for verdict in given.verdicts]


def replica(scorer: Any, stall: float = 60.0, clock: Callable[[], float] = lambda: 0.0) -> RewardExpert:
    return RewardExpert(scorer, stall, clock)


def test_a_replica_reads_its_model_before_it_is_asked() -> None:
    scorer = Liking()
    replica(scorer)
    assert scorer.batches == [1]


def test_what_comes_together_is_weighed_together_in_as_many_batches_as_there_are_replicas() -> None:
    liking = Liking()

    async def asking() -> tuple[Handle, list[Weighed]]:
        expert = replica(liking)
        handle = Handle(expert.weigh)
        scorer = ReplicaScorer(handle, 5.0, at_once=1, most=3)
        return handle, await asyncio.gather(*(weighed(scorer) for _ in range(8)))

    handle, given = asyncio.run(asking())
    assert sum(handle.batches) == 8
    assert max(handle.batches) == 3
    assert all(weights(each) == [0.0, LIKED] and not each.trouble for each in given)


def test_a_case_that_the_model_cannot_bear_is_decided_by_records_and_no_other() -> None:
    async def asking() -> list[Weighed]:
        scorer = ReplicaScorer(Handle(replica(Liking()).weigh), 5.0, most=8)
        return await asyncio.gather(*(weighed(scorer, text) for text in ("good", "bad", "fine")))

    good, bad, fine = asyncio.run(asking())
    assert weights(good) == weights(fine) == [0.0, LIKED]
    assert weights(bad) == [0.7, 0.3]
    assert "ArithmeticError" in bad.trouble
    assert bad.verdicts[0].reward is not None
    assert bad.verdicts[0].reward.note == bad.trouble


async def killed(cases: Sequence[Case]) -> Any:
    raise ConnectionError("the actor died")


async def hanging(cases: Sequence[Case]) -> Any:
    await asyncio.Event().wait()


async def short(cases: Sequence[Case]) -> Any:
    return []


async def garbled(cases: Sequence[Case]) -> Any:
    return [() for _ in cases]


@pytest.mark.parametrize(
    ("answer", "named"), [(killed, "ConnectionError"), (hanging, "TimeoutError"), (short, "ValueError")]
)
def test_a_replica_that_is_lost_or_hangs_costs_no_answer_and_is_left_alone_for_a_while(
    answer: Callable[[Sequence[Case]], Awaitable[Any]], named: str
) -> None:
    now = [100.0]

    async def asking() -> tuple[Handle, list[Weighed]]:
        handle = Handle(answer)
        scorer = ReplicaScorer(handle, 1.0 if answer is hanging else 60.0, clock=lambda: now[0])
        given = list(await asyncio.gather(weighed(scorer), weighed(scorer)))
        assert len(handle.cancelled) == len(handle.batches)
        batches = len(handle.batches)
        given.append(await weighed(scorer))
        assert len(handle.batches) == batches
        now[0] += 6
        handle.answer = replica(Liking()).weigh
        given.append(await weighed(scorer))
        return handle, given

    _, given = asyncio.run(asking())
    assert [weights(each) for each in given] == [[0.7, 0.3]] * 3 + [[0.0, LIKED]]
    assert all(named in each.trouble for each in given[:3])


def test_verdicts_that_do_not_fit_are_not_taken() -> None:
    given = asyncio.run(weighed(ReplicaScorer(Handle(garbled), 1.0)))
    assert weights(given) == [0.7, 0.3]
    assert "left out" in given.trouble


def test_a_scorer_of_this_process_that_fails_costs_no_answer_either() -> None:
    async def asking() -> list[Weighed]:
        scorer = LocalScorer(Liking())
        return await asyncio.gather(*(weighed(scorer, text) for text in ("good", "bad")))

    good, bad = asyncio.run(asking())
    assert (weights(good), weights(bad)) == ([0.0, LIKED], [0.7, 0.3])
    assert "ArithmeticError" in bad.trouble


def test_records_alone_are_no_trouble() -> None:
    assert asyncio.run(weighed(LocalScorer(RecordScorer()))).trouble == ""


def test_a_replica_whose_model_hangs_is_unwell() -> None:
    liking, now = Liking(), [0.0]

    async def hangs() -> None:
        expert = replica(liking, 10.0, lambda: now[0])
        liking.go.clear()
        liking.began.clear()
        task = asyncio.create_task(expert.weigh([(query("what"), FOUND, RECRUITED)]))
        await asyncio.to_thread(liking.began.wait, 10)
        expert.check_health()
        now[0] = 11.0
        with pytest.raises(RuntimeError, match="hangs"):
            expert.check_health()
        liking.go.set()
        await task
        expert.check_health()

    asyncio.run(hangs())
