"""The engine's thread by itself: what it tells, and when it is no longer well."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from symmoe.deployments.engine_loop import EngineLoop
from symmoe.deployments.events import Asked, Begun, End, Event, Finished, Piece, TurnedAway

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError, EngineLostError
from symmoe.planning.turns import Turns
from symmoe.types import Delta, EngineStats, Histogram, Image
from tests.conftest import echo_pool
from tests.deployments.api.conftest import PATIENCE, until
from tests.fakes import query


class Heard:
    """What was told, by request."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self._changed = threading.Condition()

    def tell(self, events: Sequence[tuple[str, Event]]) -> None:
        with self._changed:
            for ident, event in events:
                self.events.setdefault(ident, []).append(event)
            self._changed.notify_all()

    def until(self, ident: str, kind: type | tuple[type, ...]) -> Event:
        """The last event of a request, once that is of this kind."""
        with self._changed:
            told = self._changed.wait_for(lambda: isinstance((self.events.get(ident) or [None])[-1], kind), PATIENCE)
        assert told, self.events
        return self.events[ident][-1]

    def end(self, ident: str) -> Event:
        return self.until(ident, (Finished, TurnedAway))


class Blocked(EchoEngine):
    """Takes a step only when it is let; raises while it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.let, self.stepping = threading.Event(), threading.Event()
        self.broken = self.lost = False
        self.builds = 0

    def step(self) -> list[Delta]:
        self.stepping.set()
        assert self.let.wait(10)
        if self.broken:
            raise RuntimeError("out of memory\nwith a long story")
        if self.lost:
            self.lost = False
            self.close()
            raise EngineLostError("its process has ended")
        return super().step()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


Made = tuple[EngineLoop, Blocked, Heard, Clock]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Made]]:
    pool = read_pool(str(echo_pool(tmp_path)))
    engine, heard, clock = Blocked(), Heard(), Clock()

    def build(pool: Pool = pool) -> Assembly:
        assembly = Assembly(pool)
        assembly.engine = engine
        engine.builds += 1
        return assembly

    loop = EngineLoop(build, Turns(4, 100, 5.0), heard.tell, stall=30.0, slowest_load=300.0, clock=clock)

    def made() -> Made:
        loop.start(lambda: "adder")
        return loop, engine, heard, clock

    yield made
    engine.let.set()
    loop.stop()


def asked(ident: str, expert: str = "adder", patience: float = 60.0, stream: bool = True) -> Asked:
    return Asked(ident, expert, query("one two"), "me", patience, stream)


def test_a_stream_begins_grows_and_ends_and_a_whole_answer_only_begins_and_ends(make: Callable[[], Made]) -> None:
    loop, engine, heard, _ = make()
    engine.let.set()
    loop.submit(asked("streamed", "speaker"))
    loop.submit(asked("whole", "speaker", stream=False))
    end = heard.end("streamed")
    assert isinstance(end, Finished)
    begun, *pieces, _ = heard.events["streamed"]
    assert isinstance(begun, Begun)
    assert (begun.lane, begun.first) == ("merged", True)
    assert "".join(p.text for p in pieces if isinstance(p, Piece)) == end.generation.text == "speaker: one two"
    heard.end("whole")
    assert [type(event) for event in heard.events["whole"]] == [Begun, Finished]


def test_a_cancelled_request_is_told_nothing_more(make: Callable[[], Made]) -> None:
    loop, engine, heard, _ = make()
    loop.submit(asked("left"))
    assert engine.stepping.wait(10)
    loop.cancel("left")
    engine.let.set()
    loop.submit(asked("next"))
    heard.end("next")
    assert not isinstance(heard.events["left"][-1], End)


def test_a_step_that_fails_gives_its_requests_back_and_the_engine_goes_on(make: Callable[[], Made]) -> None:
    loop, engine, heard, _ = make()
    loop.submit(asked("unlucky"))
    assert engine.stepping.wait(10)
    engine.broken = True
    engine.let.set()
    end = heard.end("unlucky")
    engine.broken = False
    assert isinstance(end, TurnedAway)
    assert end.again
    assert end.message == "the engine failed: out of memory"
    loop.submit(asked("next"))
    assert isinstance(heard.end("next"), Finished)
    assert loop.healthy


def test_an_engine_whose_process_ends_is_made_ready_again_and_no_other_is_touched(make: Callable[[], Made]) -> None:
    loop, engine, heard, _ = make()
    loop.submit(asked("unlucky", "speaker"))
    assert engine.stepping.wait(10)
    engine.lost = True
    engine.let.set()
    end = heard.end("unlucky")
    assert isinstance(end, TurnedAway)
    assert (end.again, end.message) == (True, "the engine failed: its process has ended")
    loop.submit(asked("next", "speaker"))
    found = heard.end("next")
    assert isinstance(found, Finished)
    assert found.generation.text == "speaker: one two"
    assert engine.builds == 1


class Unwell(Blocked):
    """Fails to take in so many experts."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self._error, self._times = error, times

    def swap(self, image: Image) -> int:
        if self._times:
            self._times -= 1
            raise self._error
        return super().swap(image)


@pytest.mark.parametrize(
    ("error", "times", "resident"),
    [
        (RuntimeError("out of memory"), 2, "adder"),
        (RuntimeError("out of memory"), 3, None),
        (EngineError("its weights are broken"), 2, "sorter"),
        (EngineError("its weights are broken"), 3, None),
    ],
)
def test_it_is_warm_once_an_expert_can_answer_and_says_why_where_none_can(
    tmp_path: Path, error: Exception, times: int, resident: str | None
) -> None:
    pool = read_pool(str(echo_pool(tmp_path)))
    engine = Unwell(error, times)

    def build() -> Assembly:
        assembly = Assembly(pool)
        assembly.engine = engine
        return assembly

    loop = EngineLoop(build, Turns(4, 100, 5.0), Heard().tell, stall=30.0, slowest_load=300.0)
    loop.start(lambda: "adder")
    until(lambda: loop.warm.is_set() or not loop.healthy)
    assert (loop.warm.is_set(), loop.healthy) == (resident is not None, resident is not None)
    assert str(error) in loop.trouble
    until(lambda: loop.state.expert == resident)
    loop.stop()


def test_after_three_failures_in_a_row_it_gives_up_and_says_so(make: Callable[[], Made]) -> None:
    loop, engine, heard, _ = make()
    engine.broken = True
    engine.let.set()
    for number in range(3):
        loop.submit(asked(str(number)))
        assert isinstance(heard.end(str(number)), TurnedAway)
    until(lambda: not loop.healthy)


def test_a_step_that_takes_too_long_is_noticed_and_waiting_is_not(make: Callable[[], Made]) -> None:
    loop, engine, heard, clock = make()
    assert loop.warm.wait(10)
    clock.now = 1000.0
    assert loop.healthy
    loop.submit(asked("slow"))
    assert engine.stepping.wait(10)
    assert loop.healthy
    clock.now += 31.0
    assert not loop.healthy
    engine.let.set()
    heard.end("slow")


def test_who_waits_too_long_is_turned_away_while_others_run(make: Callable[[], Made]) -> None:
    loop, engine, heard, clock = make()
    loop.submit(asked("running"))
    assert engine.stepping.wait(10)
    loop.submit(asked("late", "speaker", patience=2.0))
    clock.now = 3.0
    engine.let.set()
    end = heard.end("late")
    assert isinstance(end, TurnedAway)
    assert (end.status, end.code) == (503, "waited_too_long")
    assert isinstance(heard.end("running"), Finished)


class Counting(Blocked):
    """Counts its steps as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.let.set()

    def step(self) -> list[Delta]:
        self.steps += 1
        return super().step()

    def stats(self) -> EngineStats:  # type: ignore[override]
        taken, self.steps = self.steps, 0
        none = Histogram((), 0.0)
        return EngineStats(1, 0, 0.5, 0, taken, 0, 0, 0, none, none)


def test_what_the_engine_counts_is_counted_for_the_expert_that_was_in_it(tmp_path: Path) -> None:
    pool, engine, heard = read_pool(str(echo_pool(tmp_path))), Counting(), Heard()

    def build() -> Assembly:
        assembly = Assembly(pool)
        assembly.engine = engine
        return assembly

    loop = EngineLoop(build, Turns(4, 100, 5.0), heard.tell, stall=30.0, slowest_load=300.0)
    loop.start(lambda: "adder")
    for ident, expert in (("1", "adder"), ("2", "speaker"), ("3", "adder")):
        loop.submit(asked(ident, expert))
        heard.end(ident)
    until(lambda: loop.state.stats.get("adder") and loop.state.stats["adder"].generation_tokens == 6)
    assert loop.state.stats["speaker"].generation_tokens == 3
    loop.stop()
