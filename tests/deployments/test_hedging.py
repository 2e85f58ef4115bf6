"""Waves under a deadline, on a clock that goes on only when everybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.events import Asked, Begun, End, EngineState, Finished, Tell, TurnedAwayError
from symmoe.deployments.hedging import Latencies, hedge_at
from symmoe.deployments.orchestrator import Request, Resources
from symmoe.deployments.order import Order, Report

from symmoe.aggregation.synthesis import Synthesis
from symmoe.aggregation.vote import WeightedVote
from symmoe.answering import Judging, Routed, Weighed
from symmoe.policy import Policy
from symmoe.scoring.weighing import weigh_by_records
from symmoe.types import Assignment, Candidate, Generation, Hedge, Message, Query, Recruitment, Sampling, Trace

NAMES = "abcde"
QUESTION = "Which is it?\nA. one\nB. two\nC. three\nD. four\nAnswer with the letter."


class AtOnce(Executor):
    """Does in the loop's thread what would be done in others."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **named))
        return future


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose seconds pass at once where nothing is to be done before a timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now, select = 0.0, self._selector.select  # type: ignore[attr-defined]
        self._default_executor = AtOnce()

        def passing(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = passing  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


@dataclass
class Timed:
    """Experts that take so long, and say so."""

    seconds: Mapping[str, float]
    words: Mapping[str, str]
    asked: list[tuple[float, str]] = field(default_factory=list)
    cancelled: list[tuple[float, str]] = field(default_factory=list)

    async def ask(self, asked: Asked, tell: Tell) -> End:
        loop = asyncio.get_running_loop()
        self.asked.append((loop.time(), asked.expert))
        tell(Begun(0.0, 0.0, "resident", False, 5))
        try:
            await asyncio.sleep(self.seconds[asked.expert])
        except asyncio.CancelledError:
            self.cancelled.append((loop.time(), asked.expert))
            raise
        return Finished(Generation(self.words[asked.expert], "stop", 5, 1))

    async def warm(self) -> bool:
        return True

    async def engines(self) -> list[EngineState]:
        return []


class ByRecords:
    async def weigh(self, query: Query, found: Sequence[Candidate], recruitment: Recruitment) -> Weighed:
        return Weighed(tuple(weigh_by_records(query, found, recruitment)))


@dataclass
class Went:
    """How a request went: when it was over, and with what, None where the deadline was."""

    seconds: float
    trace: Trace | None
    experts: Timed
    report: Report


def answered(
    experts: Timed,
    accuracies: Mapping[str, float],
    usual: Mapping[str, float],
    deadline: float,
    own: bool,
    quality: float = 0.9,
    hedges: bool = False,
    synthesis: Synthesis | None = None,
) -> Went:
    """What becomes of a question of experts that are recruited in the order of their accuracies."""
    latencies = Latencies()
    for expert, seconds in usual.items():
        for _ in range(5):
            latencies.note(expert, seconds, True)
    assignments = tuple(Assignment("0", expert, 0) for expert in accuracies)
    routed = Routed("aggregated", Recruitment("0", assignments, dict.fromkeys(accuracies, 0.2), accuracies))
    query = Query("0", (Message("user", QUESTION),), Sampling(4))
    order = Order("one", query, "me", Policy(len(accuracies), quality=quality), deadline=deadline, own_deadline=own)
    resources = Resources(
        *(experts, ByRecords(), Judging(WeightedVote(), synthesis), dict, dict), hedges=hedges, latencies=latencies
    )

    async def unroutable(policy: Policy) -> Routed:
        raise AssertionError(policy)

    async def asking() -> Went:
        ends = asyncio.get_running_loop().time() + deadline
        request = Request(order, Report(routed), resources, 1e9, ends, unroutable, lambda policy: False)
        try:
            while await request.next() is not None:
                pass
        except TurnedAwayError:  # the deadline
            pass
        took = asyncio.get_running_loop().time()
        await request.close()
        traces = request.report.traces
        assert len(asyncio.all_tasks()) == 1
        return Went(took, traces[0] if traces else None, experts, request.report)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(asking())


SECONDS = st.floats(0.01, 30.0)


@st.composite
def played(draw: st.DrawFn) -> dict[str, Any]:
    names = NAMES[: draw(st.integers(1, 5))]
    worth = sorted(draw(st.lists(st.floats(0.3, 0.97), min_size=len(names), max_size=len(names))), reverse=True)
    known = draw(st.sets(st.sampled_from(names)))
    return {
        "seconds": {name: draw(SECONDS) for name in names},
        "words": {name: draw(st.sampled_from(["A", "B", "C", ""])) for name in names},
        "accuracies": dict(zip(names, worth, strict=True)),
        "usual": {name: draw(SECONDS) for name in sorted(known)},
        "deadline": draw(st.floats(0.1, 60.0)),
        "quality": draw(st.floats(0.0, 1.0)),
    }


@given(played())
def test_nobody_is_asked_twice_and_no_answer_is_later_than_in_waves_one_after_another(game: dict[str, Any]) -> None:
    seconds, words = game.pop("seconds"), game.pop("words")
    plain = answered(Timed(seconds, words), own=False, **game)
    hedged = answered(Timed(seconds, words), own=True, **game)
    for went in (plain, hedged):
        asked = [expert for _, expert in went.experts.asked]
        assert len(asked) == len(set(asked)) <= len(game["accuracies"])
        told = {} if went.trace is None else {each.expert for each in went.trace.candidates} | set(went.trace.unheard)
        assert went.trace is None or set(asked) <= told <= set(game["accuracies"])
    assert plain.trace is None or plain.trace.hedges == plain.trace.unheard == ()
    assert hedged.seconds <= plain.seconds + 1e-6
    assert (hedged.trace is not None) or plain.trace is None


def going(seconds: Mapping[str, float], usual: float, **more: Any) -> Went:
    """Of three experts the two that are asked first disagree."""
    experts = Timed(seconds, {"a": "A", "b": "B", "c": "B"})
    return answered(experts, THREE, dict.fromkeys(THREE, usual), **{"deadline": 100.0, "own": True, **more})


THREE = {"a": 0.7, "b": 0.65, "c": 0.6}
LATE = {"a": 50.0, "b": 2.0, "c": 2.0}


def test_an_expert_that_takes_longer_than_usual_is_not_waited_for_once_others_decide() -> None:
    went = going(LATE, usual=3.0, quality=0.75)
    assert went.trace is not None
    assert went.experts.asked == [(0.0, "a"), (0.0, "b"), (3.0, "c")]
    assert went.trace.hedges == (Hedge(("c",), ("a",), "late", 3.0),)
    assert (went.seconds, went.experts.cancelled, went.trace.unheard) == (5.0, [(5.0, "a")], ("a",))
    assert [candidate.expert for candidate in went.trace.candidates] == ["b", "c"]
    assert went.report.spent_tokens == 6 + 6 + 5  # who was asked in vain has read the prompt


def test_a_wave_for_which_no_time_would_be_left_is_begun_while_it_is() -> None:
    went = going({"a": 7.0, "b": 7.0, "c": 7.0}, usual=8.0, deadline=12.0)
    assert went.trace is not None
    assert went.experts.asked[-1] == (4.0, "c")
    assert went.trace.hedges == (Hedge(("c",), ("a", "b"), "deadline", 4.0),)
    assert went.seconds == 11.0


@pytest.mark.parametrize("more", [{"own": False}, {"own": True, "usual": 60.0, "deadline": 200.0}])
def test_waves_follow_each_other_where_time_does_not_press(more: dict[str, Any]) -> None:
    went = going(LATE, **{"usual": 3.0, **more})
    assert went.trace is not None
    assert went.trace.hedges == ()
    assert went.experts.asked[-1] == (50.0, "c")


def test_a_pool_may_have_waves_hedged_for_requests_without_a_deadline_of_their_own() -> None:
    assert going(LATE, usual=3.0, own=False, hedges=True, quality=0.75).seconds == 5.0


def test_an_aggregator_is_asked_after_them_and_waited_for() -> None:
    seconds = {**LATE, "writer": 1.0}
    experts = Timed(seconds, {"a": "A", "b": "B", "c": "B", "writer": "It is B."})
    synthesis = Synthesis(lambda query: "writer", "always")
    went = answered(experts, THREE, dict.fromkeys(THREE, 3.0), 100.0, True, quality=0.75, synthesis=synthesis)
    assert went.trace is not None
    assert (went.seconds, went.trace.answer.text, went.trace.unheard) == (6.0, "It is B.", ("a",))


def test_what_an_expert_usually_takes_is_what_95_in_100_of_its_last_calls_did_not_exceed() -> None:
    latencies = Latencies()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        latencies.note("a", seconds, True)
    assert latencies.usual("a") is None
    for seconds in range(5, 101):
        latencies.note("a", float(seconds), True)
    assert latencies.usual("a") == 97.0  # of 37 to 100
    latencies.note("a", 50.0, False)
    assert latencies.usual("a") == 97.0
    for _ in range(8):
        latencies.note("a", 200.0, False)
    assert latencies.usual("a") == 200.0


def test_of_whom_nothing_is_known_half_of_the_time_that_is_left_is_expected() -> None:
    assert hedge_at(2.0, 12.0, [(2.0, None)], [None]) == (7.0, "late")
    assert hedge_at(2.0, 12.0, [(2.0, 6.0)], [None]) == (7.0, "deadline")
    assert hedge_at(2.0, 12.0, [(2.0, 3.0), (1.0, 9.0)], [1.0, 2.0]) == (5.0, "late")
