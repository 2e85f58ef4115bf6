from __future__ import annotations

import pytest

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.cost import Cost, Topology, Traffic, predict

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
