from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event
from threading import enumerate as enumerate_threads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.engines.echo import EchoEngine
from symmoe.errors import CapacityError, EngineError, EngineLostError
from symmoe.loading.engines import SleepingEngines
from symmoe.loading.images import NamedImages
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.types import Call
from tests.fakes import query

AWAKE, ASLEEP = 10, 6
MODELS = "abcd"


class Sleeper(EchoEngine):
    """Keeps six bytes asleep of ten awake. Dead, it answers nothing; while `gate` is shut it does not start."""

    def __init__(self, gate: Event) -> None:
        super().__init__()
        self.dead = self.asleep = self.closed = False
        self.begun, self._gate = Event(), gate

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        self.begun.set()
        assert self._gate.wait(10)
        if model == "broken":
            raise EngineError("it does not start")
        super().start(model, tags)

    def suspend(self) -> int:
        self._live()
        self.asleep = True
        return ASLEEP

    def resume(self) -> None:
        self._live()
        assert self.asleep
        self.asleep = False

    def adapt(self, adapter: str | None) -> bool:
        self._live()
        return False

    def close(self) -> None:
        self.closed = True
        super().close()

    def _live(self) -> None:
        if self.dead:
            raise EngineLostError("it is dead")


class Sleepers:
    """Gives sleepers and keeps them."""

    def __init__(self) -> None:
        self.given: list[Sleeper] = []
        self.gate = Event()
        self.gate.set()
        self.closed = self.prepared = False

    def engine(self) -> Sleeper:
        self.given.append(Sleeper(self.gate))
        return self.given[-1]

    def prepare(self) -> None:
        self.prepared = True

    def close(self) -> None:
        self.closed = True

    def of(self, model: str) -> Sleeper:
        return next(engine for engine in self.given if engine.model == model and not engine.closed)


class House:
    """Sleeping engines of a budget, and a loader in front; every expert is a model, or `model+adapter`."""

    def __init__(self, budget: int, ahead: bool = False, clock: Callable[[], float] = time.perf_counter) -> None:
        self.sleepers = Sleepers()
        images = NamedImages()
        self.engines = SleepingEngines(EchoEngine(), self.sleepers, images, lambda model: AWAKE, budget, ahead, clock)
        self.loader = LaneLoader(self.engines, _weights, images)

    def lane(self, expert: str) -> str:
        lane = self.loader.ready(expert).lane
        assert self.said() == f"{expert.split('+')[-1]}: hello"
        assert self.engines.used <= self.engines.budget
        awake = [engine for engine in self.sleepers.given if engine.model and not engine.asleep]
        assert [engine.model for engine in awake] == [expert.split("+")[0]]
        return lane

    def said(self) -> str:
        ((_, generation),) = self.engines.generate([Call("", query("hello"), ())])
        return generation.text

    def lanes(self, experts: str) -> list[str]:
        return [self.lane(expert) for expert in experts.split()]


def _weights(expert: str) -> ExpertWeights:
    model, _, adapter = expert.partition("+")
    return ExpertWeights(model, adapter or None)


def test_a_shape_is_built_once_and_wakes_after_that() -> None:
    house = House(budget=100)
    assert house.lanes("a b a b c a") == ["rebuild", "rebuild", "wake", "wake", "rebuild", "wake"]
    assert len(house.sleepers.given) == 3
    assert house.engines.asleep == ("c", "b")


def test_what_was_swapped_into_an_engine_is_still_in_it_when_it_wakes() -> None:
    house = House(budget=100)
    assert house.lanes("a+x b a+x b a a+x") == ["rebuild", "rebuild", "wake", "wake", "wake", "merged"]
    assert house.loader.ready("b").reason.endswith("with the expert in it")
    woken = house.loader.ready("a")
    assert (woken.lane, woken.reason.endswith("put into it (swap)")) == ("wake", True)


def test_an_engine_that_died_in_its_sleep_is_built_anew() -> None:
    house = House(budget=100)
    house.lanes("a+x b")
    house.sleepers.of("a").dead = True
    assert house.lanes("a b a") == ["rebuild", "wake", "wake"]


def test_an_engine_that_dies_awake_is_built_anew_and_only_that() -> None:
    house = House(budget=100)
    house.lanes("a b")
    house.sleepers.of("b").dead = True
    with pytest.raises(EngineLostError):
        house.loader.ready("b+x") and house.engines.adapt("x")
    assert house.engines.model is None
    assert house.lanes("b a") == ["rebuild", "wake"]


def test_what_is_needed_last_goes_first() -> None:
    house = House(budget=AWAKE + 2 * ASLEEP)
    house.lanes("a b c")
    house.loader.expect(["d", "a", "b"])
    assert house.lanes("d a b") == ["rebuild", "wake", "wake"]
    assert house.lane("c") == "rebuild"


def test_without_a_known_order_what_was_used_longest_ago_goes_first() -> None:
    house = House(budget=AWAKE + 2 * ASLEEP)
    assert house.lanes("a b c a d b") == ["rebuild", "rebuild", "rebuild", "wake", "rebuild", "rebuild"]


def test_an_engine_that_no_room_can_be_made_for_is_refused_with_what_to_do() -> None:
    house = House(budget=AWAKE - 1)
    with pytest.raises(CapacityError) as refused:
        house.lane("a")
    assert "memory_gib" in str(refused.value.hint)
    assert house.engines.used == 0


def test_the_next_engine_starts_while_the_one_before_generates() -> None:
    house = House(budget=100, ahead=True)
    house.lane("a")
    house.sleepers.gate.clear()
    house.loader.expect(["b"])
    assert house.said() == "a: hello"
    assert house.engines.used == 2 * AWAKE
    house.sleepers.gate.set()
    assert house.lanes("b a") == ["rebuild", "wake"]


def test_one_that_could_not_be_started_ahead_says_so_when_it_is_needed() -> None:
    house = House(budget=100, ahead=True)
    house.lane("a")
    house.loader.expect(["broken"])
    with pytest.raises(EngineError, match="does not start"):
        house.lane("broken")
    assert house.lane("a") in ("swap", "wake", "rebuild")


def test_nothing_is_started_ahead_at_the_cost_of_what_is_needed_sooner() -> None:
    house = House(budget=AWAKE + 2 * ASLEEP, ahead=True)
    house.lanes("a b c")
    house.loader.expect(["a", "b", "d"])
    assert len(house.sleepers.given) == 3


def test_an_engine_started_ahead_in_place_of_one_with_other_weights_has_its_own() -> None:
    house = House(budget=AWAKE + AWAKE, ahead=True)
    house.lanes("a+x b c")
    house.loader.expect(["a"])
    assert house.lane("a") == "rebuild"


def test_what_engines_need_is_prepared_before_the_first_is_wanted() -> None:
    house = House(budget=100)
    house.engines.prepare()
    assert (house.sleepers.prepared, house.sleepers.given) == (True, [])


def test_the_engine_that_is_wanted_in_any_case_starts_before_anybody_asks_for_it() -> None:
    house = House(budget=100)
    house.sleepers.gate.clear()
    house.engines.prepare("a")
    assert house.engines.used == AWAKE
    house.sleepers.gate.set()
    load = house.loader.ready("a+x")
    assert load.lane == "rebuild"
    assert load.reason == "a new engine, started ahead, and the expert is put into it (merged)"
    assert house.lane("a") == "swap"
    assert len(house.sleepers.given) == 1


def test_a_load_tells_how_long_its_engine_had_been_starting_before_it_was_waited_for() -> None:
    now = [0.0]
    house = House(budget=100, clock=lambda: now[0])
    house.sleepers.gate.clear()
    house.engines.prepare("a")
    starter = next(thread for thread in enumerate_threads() if thread.name == "start-engine")
    assert house.sleepers.given[0].begun.wait(10)
    now[0] = 9.0
    house.sleepers.gate.set()
    starter.join()
    assert house.loader.ready("a").saved == 9.0
    house.lane("b")
    again = house.loader.ready("a")
    assert (again.lane, again.saved) == ("wake", 0.0)


def test_one_that_did_not_start_by_itself_is_tried_again_when_it_is_needed_and_says_why() -> None:
    house = House(budget=100)
    house.engines.prepare("broken")
    with pytest.raises(EngineError, match="does not start"):
        house.lane("broken")
    assert house.lane("a") == "rebuild"


def test_closing_ends_every_engine_and_the_source_of_them() -> None:
    house = House(budget=100)
    house.lanes("a b")
    house.engines.close()
    house.engines.close()
    assert all(engine.closed for engine in house.sleepers.given)
    assert house.sleepers.closed
    assert house.engines.model is None


@given(
    budget=st.integers(AWAKE, 60),
    uses=st.lists(st.sampled_from([*MODELS, "a+x", "b+y"]), max_size=12),
    known=st.booleans(),
    ahead=st.booleans(),
    dying=st.sets(st.integers(0, 11)),
)
def test_whatever_is_asked_the_right_expert_answers_within_the_budget(
    budget: int, uses: list[str], known: bool, ahead: bool, dying: set[int]
) -> None:
    house = House(budget, ahead)
    try:
        for place, expert in enumerate(uses):
            house.lane(expert)
            if known:
                house.loader.expect(uses[place + 1 :])
                assert house.engines.used <= budget
            sleeping = [engine for engine in house.sleepers.given if engine.asleep and not engine.closed]
            if place in dying and sleeping:
                sleeping[0].dead = True
    finally:
        house.engines.close()
