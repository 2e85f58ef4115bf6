from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import EngineError
from symmoe.executor.dispatch import Cost, Counted, Dispatch
from symmoe.planning.costs import ExpertCost
from symmoe.types import Assignment, Call, Joint, Plan, Step
from tests.fakes import query


def call(expert: str, number: int) -> Call:
    return Call(expert, query(f"{expert} {number}", f"{expert}{number}"), (Assignment(f"{expert}{number}", expert, 0),))


def step(expert: str, count: int, worker: int = 0, first: int = 0) -> Step:
    return Step(expert, tuple(call(expert, first + number) for number in range(count)), worker)


@dataclass
class Cluster:
    """Runs a plan to its end. `speeds` are one per worker; `dies` says after how many events of its life each dies.

    A worker whose list in `dies` is used up lives on; one in `lost` is not restarted after its last death. `poison`
    kills whoever answers it.
    """

    plan: Plan
    speeds: Sequence[float]
    costs: Mapping[str, Cost]
    dies: Mapping[int, Sequence[int]] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()
    poison: frozenset[Call] = frozenset()
    retries: int = 2
    delivered: list[Call] = field(default_factory=list)
    given_up: list[Call] = field(default_factory=list)
    begun: list[tuple[int, Step]] = field(default_factory=list)
    loads: list[tuple[int, str]] = field(default_factory=list)
    now: float = 0.0

    def run(self) -> Cluster:
        self.dispatch = Dispatch(self.plan, len(self.speeds), self.costs, self.retries)
        self._lives = {worker: list(lives) for worker, lives in self.dies.items()}
        self._age = [0] * len(self.speeds)
        self._idle, self._dead = set(range(len(self.speeds))), set[int]()
        self._events: list[tuple[float, int, list[Call | None]]] = []
        self._resident = [""] * len(self.speeds)
        self._running = [""] * len(self.speeds)
        self._hand_out()
        while self._events:
            self.now, worker, todo = heapq.heappop(self._events)
            self._advance(worker, todo)
            self._hand_out()
        assert self.dispatch.done
        return self

    def _hand_out(self) -> None:
        for worker, begun in self.dispatch.begin(sorted(self._idle)):
            self._idle.discard(worker)
            self._running[worker] = begun.expert
            self.begun.append((worker, begun))
            self._schedule(worker, [None, *begun.calls], begun.expert)

    def _schedule(self, worker: int, todo: list[Call | None], expert: str) -> None:
        """When the worker will have done the first of its list: a load (None) or a call."""
        cost = self.costs[expert]
        if not todo:
            spent = 0.0
        elif todo[0] is None:
            spent = 0.0 if self._resident[worker] == expert else cost.load
        else:
            spent = cost.request
        heapq.heappush(self._events, (self.now + spent / self.speeds[worker], worker, todo))

    def _advance(self, worker: int, todo: list[Call | None]) -> None:
        if not todo:
            self.dispatch.finished(worker)
            self._idle.add(worker)
            return
        done, *rest = todo
        self._age[worker] += 1
        if done in self.poison or (self._lives.get(worker) and self._age[worker] > self._lives[worker][0]):
            self._die(worker, done in self.poison)
            return
        expert = self._running[worker]
        if done is None:
            if self._resident[worker] != expert:
                self.loads.append((worker, expert))
            self._resident[worker] = expert
            self.dispatch.loaded(worker)
        else:
            assert self.dispatch.delivered(worker, done)
            assert not self.dispatch.delivered(worker, done)
            self.delivered.append(done)
        self._schedule(worker, rest, expert)

    def _die(self, worker: int, poisoned: bool) -> None:
        if not poisoned:
            self._lives[worker].pop(0)
        self._age[worker], self._resident[worker] = 0, ""
        self.given_up += self.dispatch.died(worker)
        if worker in self.lost and not self._lives.get(worker):
            self._dead.add(worker)
        else:
            self._idle.add(worker)


NAMES = "abcdef"
COSTS = st.fixed_dictionaries(
    {name: st.builds(Counted, st.sampled_from([0.0, 1.0, 4.0, 50.0]), st.sampled_from([0.1, 1.0])) for name in NAMES}
)


@st.composite
def plans(draw: st.DrawFn, workers: int, joints: bool = True) -> Plan:
    """Steps of random size anywhere; an expert may stand on several workers, each call on one of them.

    Any steps may be joint, in whatever order.
    """
    placed = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, workers - 1)), unique=True, max_size=10))
    counts = draw(st.lists(st.integers(0, 12), min_size=len(placed), max_size=len(placed)))
    joint = st.none() | st.builds(Joint, st.integers(0, 2), st.just(workers), st.just(3.0))
    return Plan(
        tuple(
            replace(step(expert, count, worker, first=100 * worker), joint=draw(joint) if joints else None)
            for (expert, worker), count in zip(placed, counts, strict=True)
        )
    )


def calls_of(plan: Plan) -> list[Call]:
    return [call for step in plan.steps for call in step.calls]


@st.composite
def clusters(draw: st.DrawFn, deaths: bool = True, joints: bool = True) -> Cluster:
    workers = draw(st.integers(1, 4))
    speeds = draw(st.lists(st.sampled_from([0.2, 1.0, 1.0, 3.0]), min_size=workers, max_size=workers))
    lives = st.dictionaries(st.integers(0, workers - 1), st.lists(st.integers(0, 15), max_size=3))
    dies = draw(lives) if deaths else {}
    lost = draw(st.frozensets(st.sampled_from(sorted(dies)), max_size=workers - 1)) if dies else frozenset()
    return Cluster(draw(plans(workers, joints)), speeds, draw(COSTS), dies, lost, retries=12)


@given(clusters())
def test_whoever_dies_every_call_is_delivered_exactly_once(cluster: Cluster) -> None:
    cluster.run()
    assert Counter(cluster.delivered) == Counter(calls_of(cluster.plan))
    assert cluster.given_up == []


@given(clusters())
def test_no_expert_is_loaded_where_it_has_no_work(cluster: Cluster) -> None:
    cluster.run()
    assert all(begun.calls for _, begun in cluster.begun)
    assert all(call.expert == begun.expert for _, begun in cluster.begun for call in begun.calls)


@given(clusters(deaths=False))
def test_without_deaths_no_call_is_begun_twice(cluster: Cluster) -> None:
    cluster.run()
    begun = Counter(call for _, begun in cluster.begun for call in begun.calls)
    assert begun == Counter(calls_of(cluster.plan))


def alone(cluster: Cluster, worker: int) -> float:
    """When a worker would end that runs its own steps and gets no help."""
    own = [step for step in cluster.plan.steps if step.worker == worker and step.calls]
    needed = sum(cluster.costs[s.expert].load + len(s.calls) * cluster.costs[s.expert].request for s in own)
    return needed / cluster.speeds[worker]


@given(clusters(deaths=False, joints=False))
def test_where_costs_are_as_predicted_stealing_delays_the_end_by_no_more_than_what_was_under_way(
    cluster: Cluster,
) -> None:
    cluster.speeds = [1.0] * len(cluster.speeds)
    planned = max(alone(cluster, worker) for worker in range(len(cluster.speeds)))
    cluster.run()
    under_way = max((max(c.load, c.request) for c in cluster.costs.values()), default=0.0)
    assert cluster.now <= planned + under_way + 1e-9


@given(clusters(), st.data())
def test_a_call_that_kills_is_given_up_alone_and_all_others_are_answered(cluster: Cluster, data: st.DataObject) -> None:
    calls = calls_of(cluster.plan)
    poison = data.draw(st.frozensets(st.sampled_from(calls), max_size=2)) if calls else frozenset()
    cluster.dies, cluster.lost, cluster.poison, cluster.retries = {}, frozenset(), poison, 2
    cluster.run()
    assert Counter(cluster.given_up) == Counter(poison)
    assert Counter(cluster.delivered) == Counter(calls) - Counter(poison)


def begin(dispatch: Dispatch, worker: int, loaded: bool = True) -> Sequence[Call]:
    begun = dispatch.next(worker)
    assert begun is not None
    if loaded:
        dispatch.loaded(worker)
    return begun.calls


def test_each_worker_runs_its_own_steps_in_the_order_of_the_plan() -> None:
    plan = Plan((step("a", 1), step("b", 1, worker=1), step("c", 1), step("d", 1, worker=1)))
    dispatch = Dispatch(plan, 2)
    ran = dict.fromkeys((0, 1), "")
    for worker in (0, 1, 0, 1):
        (only,) = begin(dispatch, worker)
        dispatch.delivered(worker, only)
        dispatch.finished(worker)
        ran[worker] += only.expert
    assert ran == {0: "ac", 1: "bd"}
    assert dispatch.done


def test_it_is_known_ahead_which_experts_a_worker_needs_next() -> None:
    dispatch = Dispatch(Plan((step("a", 9), step("b", 1), step("c", 1), step("d", 1, worker=1))), 2)
    begin(dispatch, 0)
    assert dispatch.ahead(0) == ("b", "c")
    begin(dispatch, 1)
    assert dispatch.ahead(1) == ()


def test_steps_of_a_plan_for_more_workers_are_run_by_those_that_there_are() -> None:
    dispatch = Dispatch(Plan((step("a", 1, worker=5),)), 2)
    assert [only.expert for only in begin(dispatch, 1)] == ["a"]


def test_an_idle_worker_takes_a_whole_step_from_the_one_with_most_to_do() -> None:
    plan = Plan(
        (step("a", 10), step("b", 10), step("c", 10, worker=1), step("d", 10, worker=1), step("e", 9, worker=1))
    )
    dispatch = Dispatch(plan, 3)
    begin(dispatch, 0), begin(dispatch, 1)
    assert [only.expert for only in begin(dispatch, 2)] == ["d"] * 10


def test_of_a_single_large_step_it_takes_half() -> None:
    dispatch = Dispatch(Plan((step("a", 1), step("b", 40))), 2)
    begin(dispatch, 0)
    taken = begin(dispatch, 1)
    assert [only.expert for only in taken] == ["b"] * 20
    dispatch.delivered(0, call("a", 0))
    dispatch.finished(0)
    assert {*begin(dispatch, 0), *taken} == set(step("b", 40).calls)


@pytest.mark.parametrize(("load", "taken"), [(2.0, 10), (9.0, 10), (10.0, 0), (30.0, 0)])
def test_it_takes_half_a_step_only_where_that_saves_more_than_the_second_load(load: float, taken: int) -> None:
    dispatch = Dispatch(Plan((step("a", 20),)), 2, {"a": Counted(load)})
    stolen = dispatch.next(1)
    assert (len(stolen.calls) if stolen else 0) == taken
    assert len(begin(dispatch, 0)) == 20 - taken


def test_an_adapter_is_left_where_its_model_is_though_its_model_costs_the_thief_dear() -> None:
    adapters = ExpertCost(40.0, 1.0, swap=1.0)
    plan = Plan((step("a", 9), step("b", 9), step("c", 9), step("d", 1, worker=1)))
    costs = dict.fromkeys("abcd", adapters)
    dispatch = Dispatch(plan, 2, costs, models={"a": "base", "b": "base", "c": "base", "d": "other"})
    begin(dispatch, 0)
    (only,) = begin(dispatch, 1)
    dispatch.delivered(1, only)
    dispatch.finished(1)
    assert dispatch.next(1) is None, "29 seconds are left there, and the model alone would take 40"


@pytest.mark.parametrize(("now", "stolen"), [(0.0, True), (39.0, False)])
def test_a_load_under_way_counts_with_what_is_left_of_it(now: float, stolen: bool) -> None:
    costs = dict.fromkeys("ab", ExpertCost(40.0, 1.0, swap=1.0))
    clock = iter([0.0, *[now] * 9])
    dispatch = Dispatch(
        Plan((step("a", 5), step("b", 5))), 2, costs, models=dict.fromkeys("ab", "one"), clock=clock.__next__
    )
    begin(dispatch, 0, loaded=False)
    assert (dispatch.next(1) is not None) == stolen


def test_an_expert_that_the_thief_has_ready_costs_no_load() -> None:
    dear = {name: Counted(load=30.0) for name in NAMES}
    dispatch = Dispatch(Plan((step("b", 20), step("b", 1, worker=1, first=50))), 2, dear)
    (only,) = begin(dispatch, 1)
    dispatch.delivered(1, only)
    dispatch.finished(1)
    assert len(begin(dispatch, 1)) == 20


def test_a_step_that_fails_and_brings_nothing_is_tried_three_times_each_time_by_another_worker() -> None:
    dispatch = Dispatch(Plan((step("a", 3),)), 2)
    first, *rest = begin(dispatch, 0)
    dispatch.delivered(0, first)
    dispatch.failed(0, EngineError("out of memory", hint="buy more"))
    assert dispatch.next(0) is None
    assert list(begin(dispatch, 1)) == rest
    dispatch.failed(1, EngineError("out of memory", hint="buy more"))
    assert list(begin(dispatch, 0)) == rest
    with pytest.raises(EngineError, match="expert 'a' failed 3 times: out of memory") as raised:
        dispatch.failed(0, EngineError("out of memory", hint="buy more"))
    error = raised.value
    assert (error.hint, error.expert, error.attempts, error.unloaded) == ("buy more", "a", 3, False)


def test_the_only_worker_there_is_tries_again_itself() -> None:
    dispatch = Dispatch(Plan((step("a", 2),)), 1)
    begin(dispatch, 0)
    dispatch.failed(0, EngineError("it hiccuped"))
    assert len(begin(dispatch, 0)) == 2


def test_calls_that_an_ended_step_left_unanswered_count_as_its_failure() -> None:
    dispatch = Dispatch(Plan((step("a", 2),)), 2)
    first, second = begin(dispatch, 0)
    dispatch.delivered(0, first)
    dispatch.finished(0)
    assert begin(dispatch, 1) == (second,)


def test_an_expert_whose_loading_kills_every_worker_is_an_error() -> None:
    dispatch = Dispatch(Plan((step("a", 2),)), 2, retries=2)
    for worker in (0, 1):
        begin(dispatch, worker, loaded=False)
        assert dispatch.died(worker) == ()
    begin(dispatch, 0, loaded=False)
    with pytest.raises(EngineError, match="expert 'a' cannot be loaded: 3 workers died of it"):
        dispatch.died(0)


def test_the_last_try_of_a_call_has_no_other_beside_it() -> None:
    dispatch = Dispatch(Plan((step("a", 3),)), 1, retries=1)
    assert len(begin(dispatch, 0)) == 3
    assert dispatch.died(0) == ()
    (suspect,) = begin(dispatch, 0)
    assert dispatch.died(0) == (suspect,)
    for _ in range(2):
        (innocent,) = begin(dispatch, 0)
        assert dispatch.delivered(0, innocent)
        dispatch.finished(0)
    assert dispatch.done


def test_a_call_that_is_not_the_workers_is_not_delivered() -> None:
    dispatch = Dispatch(Plan((step("a", 1), step("b", 1, worker=1))), 2)
    begin(dispatch, 0), begin(dispatch, 1)
    assert not dispatch.delivered(0, call("b", 0))


def test_what_a_worker_could_not_begin_is_anybodys_until_it_asks_again() -> None:
    plan = Plan((step("a", 1), step("b", 1, worker=1), step("c", 1, worker=1)))
    dispatch = Dispatch(plan, 2, {name: Counted(load=100.0) for name in NAMES})  # nothing is worth stealing
    begin(dispatch, 1, loaded=False)
    dispatch.returned(1)
    for expert in "ab":
        (only,) = begin(dispatch, 0)
        assert only.expert == expert
        dispatch.delivered(0, only)
        dispatch.finished(0)
    assert [only.expert for only in begin(dispatch, 1)] == ["c"]
    assert dispatch.next(0) is None


def joined(*steps: Step) -> Plan:
    """Steps of which those of expert `j` are joint."""
    return Plan(tuple(replace(s, joint=Joint(0, 2, 3.0)) if s.expert == "j" else s for s in steps))


def test_a_joint_step_waits_until_all_who_have_it_are_there_and_then_they_begin_together() -> None:
    dispatch = Dispatch(joined(step("j", 2), step("b", 1, worker=1), step("j", 2, worker=1, first=50)), 2)
    assert [(worker, begun.expert) for worker, begun in dispatch.begin([0, 1])] == [(1, "b")]
    assert dispatch.waiting([0]) == {0: Joint(0, 2, 3.0)}
    dispatch.loaded(1)
    dispatch.delivered(1, call("b", 0))
    dispatch.finished(1)
    assert [(worker, begun.expert) for worker, begun in dispatch.begin([0, 1])] == [(0, "j"), (1, "j")]
    assert [dispatch.joint(worker) for worker in (0, 1)] == [Joint(0, 2, 3.0)] * 2


def test_who_has_waited_long_enough_begins_alone_and_so_does_who_comes_later() -> None:
    dispatch = Dispatch(joined(step("j", 2), step("b", 1, worker=1), step("j", 2, worker=1, first=50)), 2)
    dispatch.begin([0, 1])
    dispatch.hurry(0)
    assert [worker for worker, _ in dispatch.begin([0])] == [0]
    assert dispatch.joint(0) is None
    dispatch.loaded(1)
    dispatch.delivered(1, call("b", 0))
    dispatch.finished(1)
    assert [begun.expert for _, begun in dispatch.begin([1])] == ["j"]


def test_nobody_waits_for_a_worker_that_died() -> None:
    dispatch = Dispatch(joined(step("j", 2), step("b", 1, worker=1), step("j", 2, worker=1, first=50)), 2)
    dispatch.begin([0, 1])
    dispatch.died(1)
    assert [begun.expert for _, begun in dispatch.begin([0])] == ["j"]
