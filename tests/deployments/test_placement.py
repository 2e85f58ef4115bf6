from __future__ import annotations

import pytest
from symmoe.deployments.placement import claim, dealt, stated

from symmoe.errors import JobError


@pytest.mark.parametrize(
    ("machines", "workers", "accelerators", "share"),
    [
        ([{"CPU": 8}], 2, 1, {"num_cpus": 4}),
        ([{"CPU": 8}], 3, 1, {"num_cpus": 2}),
        ([{"CPU": 2}], 2, 0, {"num_cpus": 1}),
        ([{"CPU": 3}, {"CPU": 3}], 3, 0, {"num_cpus": 1}),
        ([{"CPU": 4}, {"CPU": 2}], 3, 0, {"num_cpus": 2}),
        ([{"CPU": 8, "GPU": 4}], 4, 1, {"num_cpus": 1, "num_gpus": 1}),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8}], 2, 2, {"num_cpus": 1, "num_gpus": 2}),
        ([{"CPU": 8, "GPU": 4}], 8, 0, {"num_cpus": 1}),
    ],
)
def test_each_worker_claims_an_equal_share(
    machines: list[dict[str, float]], workers: int, accelerators: int, share: dict[str, float]
) -> None:
    assert claim(machines, workers, accelerators) == share


@pytest.mark.parametrize(
    ("machines", "workers", "accelerators", "said"),
    [
        ([{"CPU": 2}], 3, 0, "there is room for 2 workers of 1 CPUS, not for 3"),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], 1, 2, "there is room for 0 workers of 1 CPUS and 2 GPUS"),
        ([{"CPU": 1, "GPU": 4}], 4, 1, "there is room for 1 workers of 1 CPUS and 1 GPUS"),
        ([], 1, 0, "there is room for 0 workers"),
    ],
)
def test_more_workers_than_there_is_room_for_are_an_error(
    machines: list[dict[str, float]], workers: int, accelerators: int, said: str
) -> None:
    with pytest.raises(JobError, match=said):
        claim(machines, workers, accelerators)


@pytest.mark.parametrize(
    ("cpus", "accelerators", "share"),
    [
        (4, None, {"num_cpus": 4.0}),
        (0.5, None, {"num_cpus": 0.5}),
        (None, 2, {"num_cpus": 1.0, "num_gpus": 2.0}),
        (1, 0.25, {"num_cpus": 1.0, "num_gpus": 0.25}),
        (0, 1, {"num_cpus": 0.0, "num_gpus": 1.0}),
    ],
)
def test_what_is_stated_is_claimed_whatever_machines_there_are(
    cpus: float | None, accelerators: float | None, share: dict[str, float]
) -> None:
    assert stated(cpus, accelerators) == share


@pytest.mark.parametrize(("cpus", "accelerators"), [(0, None), (-1, 1), (1, -1)])
def test_nothing_and_less_than_nothing_cannot_be_claimed(cpus: float, accelerators: float | None) -> None:
    with pytest.raises(JobError, match="cannot claim"):
        stated(cpus, accelerators)


def test_workers_are_dealt_to_the_machines_as_they_have_room() -> None:
    machines = {"head": {"memory": 1.0}, "one": {"CPU": 8, "GPU": 2}, "two": {"CPU": 8, "GPU": 4}}
    assert dealt(machines, {"num_cpus": 1, "num_gpus": 1}, 6) == ["two", "two", "one", "two", "one", "two"]
    assert dealt({"one": {"CPU": 2}, "two": {"CPU": 2}}, {"num_cpus": 1.0}, 4) == ["one", "two", "one", "two"]
