from __future__ import annotations

import pytest
from symmoe.deployments.placement import claim

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
