from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from symmoe.deployments.app import settings_of
from symmoe.deployments.options import Site, dedicated_options, expert_options, reward_options, room_beside
from symmoe.deployments.placement import left
from symmoe.deployments.settings import Settings

from symmoe.config import Pool, read_pool
from symmoe.errors import JobError

REMOTE = {"url": "https://far.example/v1"}
EXPERTS = [
    {"name": "one", "model": "org/one"},
    {"name": "own", "model": "org/own", "dedicated": {"replicas": 2, "cpus": 3}},
    {"name": "far", "model": "org/far", "remote": REMOTE},
]


def pool_of(tmp_path: Path, **sections: Any) -> Pool:
    file = tmp_path / "pool.yaml"
    file.write_text(yaml.safe_dump({"name": "p", "experts": EXPERTS, **sections}))
    return read_pool(str(file))


@pytest.mark.parametrize(
    "said", [{"idle": math.nan}, {"deadline": math.inf}, {"longest_wait": -1}, {"most_open": "many"}, {"strict": "no?"}]
)
def test_a_setting_that_bounds_nothing_is_refused_by_its_name(said: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=f"the setting {next(iter(said))} is "):
        settings_of(said)
    assert settings_of({"idle": 60, "hosts": ["a"]}) == Settings(idle=60, hosts=("a",), traces="metadata")


def test_who_takes_turns_and_who_does_not(tmp_path: Path) -> None:
    site = Site.of(pool_of(tmp_path), False)
    assert [expert.name for expert in site.switched] == ["one"]
    assert [expert.name for expert in site.dedicated] == ["own"]


def test_what_stands_beside_the_experts_leaves_them_the_rest(tmp_path: Path) -> None:
    pool, settings = pool_of(tmp_path, reward={"model": "starter"}), Settings(reward_cpus=0.5)
    site = Site.of(pool, False)
    assert site.beside(settings) == [{"CPU": 3}, {"CPU": 3}, {"CPU": 0.5}]
    assert room_beside(pool, settings) == 7
    assert expert_options(site, settings, [{"CPU": 10}])["ray_actor_options"] == {"num_cpus": 3.0}
    with pytest.raises(JobError, match="no machine has 3 CPU left"):
        expert_options(site, settings, [{"CPU": 5}])


def test_on_accelerators_each_has_its_own(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, engine={"tensor_parallel_size": 2}, reward={"model": "starter", "device": "cuda"})
    site, settings = Site.of(pool, True), Settings(reward_accelerators=0.5)
    own = dedicated_options(site, pool.expert("own"), settings)
    assert own["placement_group_bundles"] == [{"CPU": 3, "GPU": 1}, {"GPU": 1}]
    assert own["num_replicas"] == 2
    assert reward_options(pool, settings)["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.5}
    assert reward_options(pool, Settings())["ray_actor_options"]["num_gpus"] == 1.0
    assert expert_options(site, settings, [{"CPU": 64, "GPU": 8}])["ray_actor_options"] == {
        "num_cpus": 1,
        "num_gpus": 2,
    }


def test_where_load_decides_there_may_be_none(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    options = expert_options(Site.of(pool, False), Settings(least=0, idle=5.0, cpus=1), [])
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["downscale_delay_s"]) == (0, 1, 5.0)
    assert scaling["look_back_period_s"] == 11.0
    assert expert_options(Site.of(pool, False), Settings(least=1, cpus=1), [])["num_replicas"] == 1


def test_the_roomiest_machine_gives_a_share() -> None:
    machines = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert left(machines, [{"CPU": 5}, {"CPU": 3}]) == [{"CPU": 1.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert left(machines, []) == machines
    with pytest.raises(JobError, match="no machine has 1 CPU and 2 GPU left"):
        left(machines, [{"CPU": 1, "GPU": 2}])
