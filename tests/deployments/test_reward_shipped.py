"""The shipped scorer on a replica of its own, which reads its model there."""

from __future__ import annotations

from pathlib import Path

import pytest
from symmoe.deployments.serving import serving
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from tests.conftest import echo_pool
from tests.deployments.streaming_trouble import troubled_streams
from tests.deployments.test_reward_on_ray import judged, unscored
from tests.deployments.test_serve import free_port


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's own models
def test_the_shipped_scorer_weighs_on_a_replica(ray_here: None, tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path, reward={"model": "starter"})))
    settings = Settings(cpus=1, reward_cpus=0.5)
    with serving(pool, settings, port=free_port(), build=troubled_streams) as service:
        service.wait_until_ready()
        answer = judged(service, "sums 1 2")
        assert "records alone" not in answer["why"]
        assert unscored(service) == 0
        assert len(answer["votes"]) == 3
