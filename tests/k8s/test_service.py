"""The service inside the manifests: what Ray Serve is told, the pool that a pod reads, and that sizes agree."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from symmoe.config import Pool, read_pool
from symmoe.manifests.rendering import IN_IMAGE, ON_VOLUME, POOL_FILE, local_sources, render
from symmoe.manifests.values import Values, write_shipped
from symmoe.yaml_text import load_yaml

from .conftest import CHART, RENDERED, ROOT, containers, one, rendered, said, sized

NAMES = sorted(RENDERED)


def service(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(rendered(name), "RayService", "symmoe")["spec"]
    return spec


def serve(name: str) -> dict[str, Any]:
    config: dict[str, Any] = load_yaml(service(name)["serveConfigV2"])
    return config


@pytest.mark.parametrize("name", NAMES)
def test_ray_serve_accepts_what_it_is_told(name: str) -> None:
    schema = pytest.importorskip("ray.serve.schema")
    deployed = schema.ServeDeploySchema.model_validate(serve(name))
    assert [app.import_path for app in deployed.applications] == ["symmoe.deployments.app:build_app"]
    assert (deployed.http_options.host, deployed.http_options.port) == ("0.0.0.0", 8000)  # noqa: S104


@pytest.mark.parametrize("name", NAMES)
def test_the_application_knows_every_argument(name: str) -> None:
    pytest.importorskip("fastapi")
    from symmoe.deployments.settings import Settings

    (application,) = serve(name)["applications"]
    known = {field.name for field in fields(Settings)} | {"pool", "without_keys"}
    assert application["args"].keys() <= known
    assert application["args"]["pool"] == POOL_FILE


@pytest.mark.parametrize("name", NAMES)
def test_deployments_named_are_those_that_the_application_has(name: str) -> None:
    pytest.importorskip("fastapi")
    from symmoe.deployments.app import EXPERTS, INGRESS

    (application,) = serve(name)["applications"]
    assert {each["name"] for each in application.get("deployments", ())} <= {INGRESS, EXPERTS}


@pytest.mark.parametrize("name", NAMES)
def test_as_many_pods_may_come_up_as_replicas(name: str) -> None:
    (application,) = serve(name)["applications"]
    group = service(name)["rayClusterConfig"]["workerGroupSpecs"][0]
    experts = application["deployments"][1]
    scaling = experts.get("autoscaling_config", {})
    assert (experts["name"], group["groupName"]) == ("experts", "experts")
    assert group["maxReplicas"] == scaling.get("max_replicas", experts.get("num_replicas"))
    assert group["minReplicas"] == scaling.get("min_replicas", experts.get("num_replicas"))
    least = scaling.get("min_replicas", experts.get("num_replicas"))
    assert group["replicas"] == scaling.get("initial_replicas", least)
    assert scaling.get("initial_replicas") != least  # Ray Serve goes back to it at every change of the bounds
    assert "replicas" not in application["args"]  # a change there starts every engine anew


@pytest.mark.parametrize("name", NAMES)
def test_an_ingress_fits_a_front_pod_and_no_expert_pod(name: str) -> None:
    groups = service(name)["rayClusterConfig"]["workerGroupSpecs"]
    cpus = {group["groupName"]: int(group["rayStartParams"]["num-cpus"]) for group in groups}
    (application,) = serve(name)["applications"]
    ingress = application["deployments"][0]
    share, expert = ingress["ray_actor_options"]["num_cpus"], application["args"]["cpus"]
    if "front" in cpus:
        assert cpus["experts"] < share <= cpus["front"]
        assert ingress["num_replicas"] == groups[1]["replicas"]
    else:
        assert expert + share == cpus["experts"] < 2 * expert


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_answers_is_placed_on_the_head(name: str) -> None:
    assert service(name)["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (application,) = serve(name)["applications"]
    assert application["args"]["cpus"] > 0
    assert application["deployments"][0]["ray_actor_options"]["num_cpus"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_a_replica_claims_is_stated_and_is_what_its_pod_has(name: str) -> None:
    (application,) = serve(name)["applications"]
    group = service(name)["rayClusterConfig"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    claimed = limits.get("nvidia.com/gpu", (said(name).experts.claim and said(name).sized.accelerators) or None)
    assert application["args"].get("accelerators") == claimed
    assert application["args"]["cpus"] <= int(limits["cpu"])


def test_the_door_stands_before_every_proxy() -> None:
    from symmoe.deployments.door import CALLBACK

    told = one(rendered("the chart as shipped"), "ConfigMap", "symmoe-environment")["data"]
    assert told.items() >= CALLBACK.items()


@pytest.mark.parametrize("name", NAMES)
def test_everybody_needs_a_key_but_in_the_try_out(name: str) -> None:
    (application,) = serve(name)["applications"]
    assert application["args"].get("without_keys", False) == (name == "the chart as shipped")


@pytest.mark.parametrize("name", NAMES)
def test_an_expert_pod_has_the_accelerators_and_the_memory_of_its_replica(name: str) -> None:
    pod = service(name)["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    pool = pool_of(name)
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    shared = int(pod["volumes"][0]["emptyDir"]["sizeLimit"].removesuffix("Mi")) / 1024
    assert int(resources["limits"]["memory"].removesuffix("Gi")) > shared > pool.engine.host_tier_gib
    accelerators = resources["limits"].get("nvidia.com/gpu")
    assert accelerators in (None, pool.engine.tensor_parallel_size)


def pool_of(name: str) -> Pool:
    """The pool that pods of a rendering read."""
    data = one(rendered(name), "ConfigMap", "symmoe-pool")["data"]
    return Pool.model_validate(load_yaml(data["pool.yaml"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_pool_in_the_config_map_is_a_pool_and_names_only_what_a_pod_has(name: str) -> None:
    for expert in pool_of(name).experts:
        for source in (expert.model, expert.adapter or ""):
            assert not source.startswith((".", "~"))
            assert not source.startswith("/") or source.startswith((IN_IMAGE, ON_VOLUME))


def test_the_adapters_of_the_starter_pool_are_where_the_image_has_them() -> None:
    starter = ROOT / "symmoe" / "starter"
    for expert in pool_of("the chart as shipped").experts:
        if expert.adapter:
            assert (starter / Path(expert.adapter).relative_to(IN_IMAGE) / "adapter_config.json").is_file()


def test_the_charts_own_values_and_their_schema_are_what_is_written_from_the_models(tmp_path: Path) -> None:
    """Renew them: `write_shipped(Path("k8s/chart"), …)`, as here."""
    write_shipped(tmp_path, sized(Values(keys=False)))
    for name in ("values.yaml", "values.schema.json"):
        assert (CHART / name).read_text() == (tmp_path / name).read_text()


def test_images_are_named_by_their_digests_where_these_are_said() -> None:
    digest = f"sha256:{'0123456789abcdef' * 4}"
    valkey = f"valkey/valkey:8.1.4@{digest}"
    values = Values.model_validate({"image": {"name": "r/symmoe", "digest": digest}, "redis": {"image": valkey}})
    found = {c["image"] for _, c, _ in containers(render(sized(values)))}
    assert found == {f"r/symmoe:0.1.0-cpu@{digest}", valkey}
    with pytest.raises(ValueError, match="digest"):
        Values.model_validate({"image": {"digest": "latest"}})


def test_rays_version_is_the_one_that_the_image_has() -> None:
    locks = [(ROOT / name).read_text().splitlines() for name in ("requirements.lock", "requirements-gpu.lock")]
    wanted = f"ray=={service('the chart as shipped')['rayClusterConfig']['rayVersion']}"
    assert all(any(line.split()[:1] == [wanted] for line in lines) for lines in locks)


def test_an_old_cluster_outlives_the_longest_request() -> None:
    pytest.importorskip("fastapi")
    from symmoe.deployments.settings import Settings

    for name in NAMES:
        assert service(name)["upgradeStrategy"]["type"] == said(name).upgrade.strategy
        assert service(name)["rayClusterDeletionDelaySeconds"] > Settings().deadline
        assert "externalStorageNamespace" not in service(name)["rayClusterConfig"]["gcsFaultToleranceOptions"]


@pytest.fixture
def own_pool(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.json").write_text("{}")
    pool = {
        "name": "mine",
        "routing": {"profiles": "./profiles/mine.json"},
        "experts": [
            {"name": "base", "model": "Qwen/Qwen3-8B"},
            {"name": "lawyer", "model": "Qwen/Qwen3-8B", "adapter": "./adapters/lawyer"},
            {"name": "far", "model": "org/far", "remote": {"url": "https://far.example/v1"}},
        ],
    }
    file = tmp_path / "pool.yaml"
    file.write_text(yaml.safe_dump(pool))
    return file


def own_values(file: Path, kind: str = "L40S") -> Values:
    return sized(Values(pool=str(file), accelerator=kind))


def test_what_a_pool_names_beside_itself_goes_along_or_is_said_to_be_copied(own_pool: Path) -> None:
    files = own_values(own_pool).pool_files
    written = load_yaml(files["pool.yaml"])
    assert files["profiles.json"] == "{}"
    assert written["routing"]["profiles"] == "./profiles.json"
    assert written["experts"][1]["adapter"] == f"{ON_VOLUME}/adapters/lawyer"
    assert written["experts"][2]["model"] == "org/far"
    assert local_sources(read_pool(str(own_pool))) == {
        str(own_pool.parent / "adapters" / "lawyer"): f"{ON_VOLUME}/adapters/lawyer"
    }


@pytest.mark.parametrize("kind", ["L40S", "cpu"])
def test_a_reward_replica_has_room_beside_the_engines(own_pool: Path, kind: str) -> None:
    pool = load_yaml(own_pool.read_text())
    own_pool.write_text(yaml.safe_dump({**pool, "reward": {"model": "starter"}}))
    spec = one(render(own_values(own_pool, kind)), "RayService", "symmoe")["spec"]
    (application,) = load_yaml(spec["serveConfigV2"])["applications"]
    arguments = application["args"]
    ingress = 0 if kind != "cpu" else 1
    known = int(spec["rayClusterConfig"]["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"])
    assert arguments["cpus"] + arguments.get("reward_cpus", 1) + ingress == known
