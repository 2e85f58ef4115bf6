from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.carriers import NcclCarrier
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup
from symmoe.loading.collectives.plan import LEAST_GAIN, Cost, GatherPlan, Topology, Traffic, plan_gather, predict
from symmoe.types import to_json
from tests.loading.collectives.ranks import MemorySource, chunks_of, in_threads, places, planned

TRAFFIC = Traffic(read=(40, 20), sent=(40, 20), received=(20, 40), chunk=10)


@pytest.mark.parametrize(
    ("topology", "seconds", "limit"),
    [
        (Topology((10.0, 10.0), 100.0), 1 + 4, "host-to-device copies"),
        (Topology((10.0, 1.0), 100.0), 10 + 20, "host-to-device copies"),
        (Topology((10.0, 10.0), 5.0), 1 + 8, "peer links"),
        (Topology((10.0, 10.0), 100.0, host=6.0), 1 + 10, "host memory"),
        (Topology((10.0, 10.0), 100.0, storage=2.0), 1 + 30, "storage"),
        (Topology((10.0, 10.0), 100.0, storage_per_rank=2.0), 1 + 20, "storage"),
        (Topology((10.0, 10.0), 100.0, links=((0, 1),), link=10.0), 1 + 6, "host-to-device copies"),
        (Topology((10.0, 10.0), 100.0, peer_over_host_link=True), 1 + 6, "host-to-device copies"),
    ],
)
def test_the_busiest_part_decides(topology: Topology, seconds: float, limit: str) -> None:
    assert predict(TRAFFIC, topology) == Cost(pytest.approx(seconds), limit)  # type: ignore[arg-type]


def test_bytes_that_must_move_without_a_way_have_no_cost() -> None:
    assert predict(TRAFFIC, Topology((10.0, 10.0))) is None


def test_nothing_costs_nothing() -> None:
    assert predict(Traffic((), (), (), 0), Topology(())) == Cost(0.0, "host-to-device copies")


def test_a_rank_is_given_no_more_than_its_links_carry() -> None:
    topology = Topology((10.0, 10.0, 10.0), links=((0, 1),), link=8.0, storage_per_rank=6.0)
    assert topology.shares() == (4.0, 4.0, 6.0)


@pytest.mark.parametrize("field", ["peer", "storage", "storage_per_rank", "host", "link"])
@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_bandwidth_is_above_zero(field: str, speed: float) -> None:
    with pytest.raises(CollectiveError, match="above 0"):
        Topology((1.0,), **{field: speed})  # type: ignore[arg-type]


@pytest.mark.parametrize("links", [((0, 2),), ((0,), (0, 1)), ((-1,),)])
def test_links_are_of_ranks_that_exist_each_once(links: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(CollectiveError, match="twice, or one that does not exist"):
        Topology((1.0, 1.0), links=links)


GB = 10**9
NVLINK = 350.0 * GB
PCIE = 52.0 * GB
SIXTEEN_GB = [16 * 10**6] * 1000


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[set[int]], list[int], Topology]:
    sizes = draw(st.lists(st.integers(0, 50), max_size=12))
    ranks = draw(st.integers(1, 5))
    ids = st.sets(st.integers(0, len(sizes) - 1)) if sizes else st.just(set[int]())
    demand = draw(st.lists(ids, min_size=ranks, max_size=ranks))
    speeds = st.sampled_from([1.0, 2.0, 5.0])
    topology = Topology(
        tuple(draw(st.lists(speeds, min_size=ranks, max_size=ranks))),
        peer=draw(speeds),
        storage=draw(st.none() | speeds),
        host=draw(st.none() | speeds),
    )
    return demand, sizes, topology


def arrivals(plan: GatherPlan) -> Counter[tuple[int, int]]:
    """How often each (rank, chunk) comes to be there: by a read of its own, or from its owner."""
    read = ((each.owner, each.chunk) for each in plan.transfers if each.chunk in plan.demand[each.owner])
    sent = ((rank, each.chunk) for each in plan.transfers for rank in each.receivers)
    return Counter([*read, *sent])


@given(cases())
def test_every_demanded_chunk_arrives_exactly_once_and_nothing_else_moves(
    case: tuple[list[set[int]], list[int], Topology],
) -> None:
    demand, sizes, topology = case
    wanted = {(rank, chunk) for rank, chunks in enumerate(demand) for chunk in chunks}
    for mode in (None, "grouped", "independent"):
        plan = plan_gather(demand, sizes, topology, mode)  # type: ignore[arg-type]
        assert arrivals(plan) == dict.fromkeys(wanted, 1)
        assert {each.chunk for each in plan.transfers} == {chunk for _, chunk in wanted}


@given(cases())
def test_a_group_reads_each_chunk_once_and_each_rank_one_chunk_a_round(
    case: tuple[list[set[int]], list[int], Topology],
) -> None:
    plan = plan_gather(*case, mode="grouped")
    assert set(Counter(each.chunk for each in plan.transfers).values()) <= {1}
    for transfers in plan.rounds:
        assert transfers
        assert set(Counter(each.owner for each in transfers).values()) == {1}


@given(cases())
def test_independent_ranks_read_what_they_demand_and_send_nothing(
    case: tuple[list[set[int]], list[int], Topology],
) -> None:
    demand, sizes, topology = case
    plan = plan_gather(demand, sizes, topology, "independent")
    assert plan.traffic().read == tuple(sum(sizes[chunk] for chunk in chunks) for chunks in demand)
    assert set(plan.traffic().sent) == {0}


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 6))
def test_what_all_demand_is_read_evenly_to_within_one_chunk(sizes: list[int], ranks: int) -> None:
    plan = plan_gather([range(len(sizes))] * ranks, sizes, Topology((1.0,) * ranks, 1.0), "grouped")
    assert max(plan.traffic().read) <= sum(sizes) / ranks + max(sizes, default=0)


@given(cases())
def test_where_copying_from_the_host_is_slow_idle_ranks_read_for_others_evenly(
    case: tuple[list[set[int]], list[int], Topology],
) -> None:
    demand, sizes, _ = case
    ranks = len(demand)
    plan = plan_gather(demand, sizes, Topology((1.0,) * ranks, peer=1e9), "grouped")
    total = sum(sizes[chunk] for chunk in set().union(*demand))
    largest = max((sizes[chunk] for chunk in set().union(*demand)), default=0)
    assert max(plan.traffic().read) <= total / ranks + largest


@given(cases())
def test_a_plan_is_taken_only_where_it_is_predicted_to_win(
    case: tuple[list[set[int]], list[int], Topology],
) -> None:
    plan = plan_gather(*case)
    assert plan.grouped_seconds is not None
    if plan.mode == "grouped":
        assert plan.grouped_seconds * LEAST_GAIN <= plan.independent_seconds
    assert plan.reason


def test_a_rank_that_demands_a_chunk_reads_it_where_all_have_as_much_to_read() -> None:
    plan = plan_gather([{0, 1}, {2, 3}, {0, 4}], [8] * 5, Topology((1.0,) * 3, 1e9), "grouped")
    assert plan.traffic().sent == (0, 0, 8) or plan.traffic().sent == (8, 0, 0)


def test_where_storage_is_the_limit_nothing_is_read_for_a_rank_that_demands_it_alone() -> None:
    plan = plan_gather([{0, 1, 2, 3}, set()], [8] * 4, Topology((10.0, 10.0), 100.0, storage=1.0), "grouped")
    assert plan.traffic().read == (32, 0)


def test_ranks_behind_one_link_read_its_share_together() -> None:
    topology = Topology((50.0,) * 4, 1e9, links=((0, 1),), link=50.0)
    read = plan_gather([range(60)] * 4, [1] * 60, topology).traffic().read
    assert read == (10, 10, 20, 20)


def test_a_slow_rank_reads_less() -> None:
    assert plan_gather([range(30)] * 2, [1] * 30, Topology((10.0, 20.0), 1e9)).traffic().read == (10, 20)


@pytest.mark.parametrize(
    ("demand", "topology", "mode", "times"),
    [
        ([range(1000)] * 4, Topology((PCIE,) * 4, NVLINK), "grouped", 3.6),
        ([range(1000)] * 8, Topology((PCIE,) * 8, NVLINK), "grouped", 6.4),
        ([range(1000), (), (), ()], Topology((PCIE,) * 4, NVLINK), "grouped", 3.6),
        ([range(1000)] * 4, Topology((PCIE,) * 4, NVLINK, storage=7.0 * GB), "grouped", 3.9),
        ([range(1000)] * 4, Topology((PCIE,) * 4), "independent", None),
        ([range(1000)] * 4, Topology((PCIE,) * 4, PCIE, peer_over_host_link=True), "independent", 0.9),
        ([range(250 * n, 250 * n + 250) for n in range(4)], Topology((PCIE,) * 4, NVLINK), "independent", 1.0),
        ([range(1000)] * 4, Topology((5.0 * GB,) * 4, 1.2 * GB), "independent", 0.3),
        ([range(1000)], Topology((PCIE,), NVLINK), "independent", 1.0),
    ],
    ids=["four", "eight", "helpers", "disk", "no peers", "no nvlink", "shards", "hot, sockets", "alone"],
)
def test_the_choice_and_its_prediction(demand: list[range], topology: Topology, mode: str, times: float | None) -> None:
    plan = plan_gather(demand, SIXTEEN_GB, topology)
    assert plan.mode == mode
    if times is None:
        assert plan.grouped_seconds is None
    else:
        assert plan.grouped_seconds is not None
        assert plan.independent_seconds / plan.grouped_seconds >= times * 0.97


def test_a_refusal_gives_both_predictions_and_what_limits_them() -> None:
    plan = plan_gather([{0}, {0}], [10**9], Topology((5.0 * GB,) * 2, 1.0 * GB))
    assert plan.mode == "independent"
    assert plan.reason.startswith("predicted: a group 1.2 s, limited by peer links; independent copies 0.4 s")


def test_what_was_asked_for_is_planned_though_it_would_not_be_chosen() -> None:
    plan = plan_gather([{0}, {0}], [10**9], Topology((5.0 * GB,) * 2, 1.0 * GB), "grouped")
    assert plan.mode == "grouped"
    assert plan.reason.startswith("asked for, though otherwise independent")


@pytest.mark.parametrize("demand", [[], [set()], [set(), set()]])
def test_no_demand_is_no_rounds(demand: list[set[int]]) -> None:
    plan = plan_gather(demand, [4, 4], Topology((1.0,) * len(demand), 1.0))
    assert (plan.rounds, plan.independent_seconds) == ((), 0.0)


def test_the_senders_of_a_round_begin_with_different_ranks() -> None:
    plan = plan_gather([range(4)] * 4, [1] * 4, Topology((1.0,) * 4, 1e9))
    assert [each.receivers[0] for each in plan.rounds[0]] == [1, 2, 3, 0]


def test_a_plan_is_json_and_its_digest_tells_plans_apart() -> None:
    topology = Topology((1.0, 1.0), 10.0)
    one, same = (plan_gather([{0, 1}, {1}], [4, 5], topology) for _ in range(2))
    other = plan_gather([{0, 1}, {0}], [4, 5], topology)
    assert json.loads(json.dumps(to_json(one)))["sizes"] == [4, 5]
    assert one.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    ("demand", "ranks", "said"),
    [([{0}, {3}], 2, "rank 1 demands chunk 3, but there are 2"), ([{0}], 2, "topology is of 2 ranks, the demand of 1")],
)
def test_what_cannot_be_planned_is_told(demand: list[set[int]], ranks: int, said: str) -> None:
    with pytest.raises(CollectiveError, match=said):
        plan_gather(demand, [1, 1], Topology((1.0,) * ranks, 1.0))


def test_a_group_cannot_be_asked_for_without_peer_links() -> None:
    with pytest.raises(CollectiveError, match="peers have no link"):
        plan_gather([{0}, {0}], [1], Topology((1.0, 1.0)), "grouped")


CHUNKS = chunks_of(*[5000] * 12)


class AsOne:
    """What several operations came to."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works
        self._done = threading.Event()
        self.thread = threading.Thread(target=self._wait)
        self.thread.start()

    def is_completed(self) -> bool:
        return self._done.is_set()

    def wait(self) -> None:
        assert self.is_completed()

    def _wait(self) -> None:
        try:
            while self._works:
                self._works.pop(0).wait()
        except RuntimeError:
            self._works.clear()  # a lost peer leaves it unfinished for ever
        else:
            self._done.set()


class Coalescing:
    """Another group, whose operations are begun all at once at the end of a batch."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._batch: list[tuple[Any, ...]] | None = None
        self.rounds: list[AsOne] = []
        self.aborted = False

    def _start_coalescing(self) -> None:
        assert self._batch is None
        self._batch = []

    def _end_coalescing(self) -> AsOne:
        assert self._batch
        self.rounds.append(AsOne([operation(*args) for operation, *args in self._batch]))
        self._batch = None
        return self.rounds[-1]

    def send(self, *args: Any) -> None:
        assert self._batch is not None
        self._batch.append((self._group.send, *args))

    def recv(self, *args: Any) -> None:
        assert self._batch is not None
        self._batch.append((self._group.recv, *args))

    def abort(self) -> None:
        self.aborted = True
        self._group = None


def gather(rank: int, group: GatherGroup, demand: list[Any], faulty: int | None = None) -> tuple[Any, Coalescing]:
    """Gather through a coalescing group; what arrived, or the error."""

    def fails(buffer: memoryview) -> None:
        raise OSError(5, "Input/output error")

    carrier = Coalescing(group.control)
    group.carrier = NcclCarrier(carrier)
    plan = planned(demand, CHUNKS)
    out = places(plan, rank)
    source = MemorySource(CHUNKS, {} if faulty is None else {faulty: fails})
    try:
        sparse_all_gather(out, plan, source, group)
    except CollectiveError as error:
        return error, carrier
    finally:
        for each in carrier.rounds:
            each.thread.join()
    return {chunk: bytes(place.tolist()) for chunk, place in out.items()}, carrier


@pytest.mark.parametrize(
    "demand",
    [[range(12)] * 3, [range(12), {0, 5}, set()], [set(), {1}, {1}]],
    ids=["all", "some", "one chunk"],
)
def test_chunks_arrive(demand: list[Any]) -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, demand))
    for (arrived, _), chunks in zip(ended, demand, strict=True):
        assert arrived == {chunk: CHUNKS[chunk] for chunk in chunks}


def test_no_batch_is_empty() -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, [{0}, {0}, {1}]))
    assert len(ended[2][1].rounds) == 0


def test_a_failure_ends_those_that_only_poll() -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, [range(12)] * 3, 4))
    assert len({str(error) for error, _ in ended}) == 1
    assert (ended[0][0].rank, ended[0][0].chunk) == (1, 4)
    assert all(carrier.aborted for _, carrier in ended)
