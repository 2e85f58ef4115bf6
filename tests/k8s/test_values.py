"""What an operator says: it is kept, it reaches every manifest that it concerns, and a contradiction is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from symmoe.errors import CapacityError, ConfigError
from symmoe.manifests.rendering import render, write_installation
from symmoe.manifests.values import Values, changed_values, read_values, values_text
from symmoe.yaml_text import load_yamls

from .conftest import RENDERED, containers, one, pods, rendered, said, sized

GPU: dict[str, Any] = {"pool": "small-2026", "accelerator": "H100"}


def cluster(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = one(manifests, "RayService", "symmoe")["spec"]["rayClusterConfig"]
    return found


def made(**values: Any) -> list[dict[str, Any]]:
    return render(sized(Values.model_validate(values)))


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", ())}


@pytest.mark.parametrize("name", RENDERED)
def test_values_are_read_again_as_they_were_written(name: str) -> None:
    assert read_values(values_text(said(name), tuple(Values.model_fields)), "here") == said(name)


def test_a_value_is_changed_in_place_and_comments_stay() -> None:
    text = "# mine\nnodes: 2  # for now\ndoor:\n  host: a.example\n"
    assert changed_values(text, {"nodes": 3, "pool": "tiny"}, "f") == (
        '# mine\nnodes: 3  # for now\ndoor:\n  host: a.example\npool: "tiny"\n'
    )
    with pytest.raises(ConfigError, match="cannot be changed here"):
        changed_values("nodes:\n  2\n", {"nodes": 3}, "f")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: 0", "nodes: Input should be greater"),
        ("doors: {}", "doors: Extra inputs"),
        ("nodes: [", "not YAML"),
        ("{keys: false, door: {host: a, kind: Ingress}}", "door.host needs keys"),
        ("door: {host: a}", "needs a Gateway"),
        ("{nodes: 2, storage: {access_mode: ReadWriteOnce}}", "need ReadWriteMany"),
        ("redis: {ca_secret: a}", "need redis.host"),
        ("experts: {claim: true}", "no device to claim"),
        ("upgrade: {strategy: NewClusterWithIncrementalUpgrade}", "gateway_class"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_values(text, "values.yaml")


@pytest.mark.parametrize(
    ("values", "mode"),
    [({}, "ReadWriteOnce"), ({"nodes": 3}, "ReadWriteMany"), (GPU, "ReadWriteMany")],
)
def test_a_volume_that_pods_of_several_nodes_mount_can_be(values: dict[str, Any], mode: str) -> None:
    manifests = made(**values)
    assert one(manifests, "PersistentVolumeClaim", "symmoe-models")["spec"]["accessModes"] == [mode]
    mounted = {where for where, pod in pods(manifests) if any(v["name"] == "models" for v in pod["spec"]["volumes"])}
    together = [where for where, pod in pods(manifests) if "affinity" in pod["spec"]]
    assert "head" not in mounted
    assert together == (["experts"] if mode == "ReadWriteOnce" else [])
    assert mode == "ReadWriteMany" or mounted == {"experts"}


@pytest.mark.parametrize("name", RENDERED)
def test_only_expert_pods_have_accelerators(name: str) -> None:
    groups = {each["groupName"]: each for each in cluster(rendered(name))["workerGroupSpecs"]}
    head = cluster(rendered(name))["headGroupSpec"]
    counts = {where: int(group["rayStartParams"]["num-gpus"]) for where, group in {"head": head, **groups}.items()}
    assert counts.pop("experts") == said(name).sized.accelerators
    assert set(counts.values()) == {0}
    for where, container, _ in containers(rendered(name)):
        if where.startswith(("head/", "front/")):
            assert environment(container)["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_the_kind_of_accelerator_is_selected_by_product_or_by_memory() -> None:
    pod = cluster(rendered("production"))["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "pool": "gpu"}
    slice_ = cluster(made(**GPU, experts={"gpu_resource": "nvidia.com/mig-3g.40gb"}))["workerGroupSpecs"][0]
    assert slice_["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == 1
    claimed = rendered("OpenShift and Cilium")
    (request,) = one(claimed, "ResourceClaimTemplate", "symmoe")["spec"]["spec"]["devices"]["requests"]
    (selector,) = request["exactly"]["selectors"]
    assert f'quantity("{said("OpenShift and Cilium").sized.device_gib}Gi")' in selector["cel"]["expression"]
    (container,) = cluster(claimed)["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert container["resources"]["claims"] == [{"name": "accelerators"}]
    assert not any("nvidia.com" in name for name in container["resources"]["limits"])


def test_a_pod_asks_for_no_more_than_its_node_has() -> None:
    small = sized(Values.model_validate({"pool": "small-2026", "accelerator": "L4", "nodes": 2, "node_cpus": 4}))
    assert small.sized.cpus == 4
    less = sized(Values.model_validate({**GPU, "pool": "small-2026", "node_memory_gib": 28})).sized
    assert less.memory_gib <= 28 < sized(Values.model_validate(GPU)).sized.memory_gib
    with pytest.raises(CapacityError, match="a pod takes"):
        sized(Values.model_validate({**GPU, "node_memory_gib": 16}))
    with pytest.raises(CapacityError, match="CPUs at least"):
        sized(Values.model_validate({**GPU, "node_cpus": 1}))


def test_files_of_batches_pass_the_door() -> None:
    from symmoe.deployments.settings import Settings

    (ingress,) = [each for each in rendered("OpenShift and Cilium") if each["kind"] == "Ingress"]
    size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(size.removesuffix("m")) << 20 > Settings().most_file_bytes


def test_a_gateway_leads_to_the_service_whose_endpoints_follow_an_upgrade() -> None:
    (route,) = [each["spec"] for each in rendered("production") if each["kind"] == "HTTPRoute"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    assert route["hostnames"] == ["symmoe.example.com"]
    assert route["rules"][0]["backendRefs"] == [{"name": "symmoe-serve-svc", "port": 8000}]


def test_redis_elsewhere_is_reached_with_its_user_and_its_own_authority() -> None:
    manifests = rendered("production")
    options = cluster(manifests)["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "rediss://redis.example.com:6380"
    assert options["redisUsername"] == {"value": "symmoe"}
    for where, container, pod in containers(manifests):
        if container["name"].startswith("ray-"):
            told, file = environment(container), "/etc/symmoe-redis/ca.crt"
            assert told["RAY_REDIS_CA_CERT"] == file, where
            address = "rediss://symmoe:$(SYMMOE_REDIS_PASSWORD)@redis.example.com:6380/0"
            assert told["REDIS_URL"] == f"{address}?ssl_ca_certs={file}", where
            (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/etc/symmoe-redis"]
            (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
            assert volume["secret"] == {"secretName": "redis-ca"}
    (rule,) = one(manifests, "NetworkPolicy", "symmoe-to-redis")["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [6380]
    assert not [each for each in manifests if each["kind"] == "StatefulSet"]


def test_names_are_found_by_node_local_dns_and_openshifts() -> None:
    (rule,) = one(rendered("the chart as shipped"), "NetworkPolicy", "symmoe-names")["spec"]["egress"]
    spaces = [each["namespaceSelector"]["matchLabels"] for each in rule["to"] if "namespaceSelector" in each]
    assert [each["kubernetes.io/metadata.name"] for each in spaces] == ["kube-system", "openshift-dns"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert {port["port"] for port in rule["ports"]} == {53, 5353}


@pytest.mark.parametrize("name", RENDERED)
def test_the_autoscaler_reaches_the_api_server_over_ipv6_and_under_cilium(name: str) -> None:
    (rule,) = one(rendered(name), "NetworkPolicy", "symmoe-autoscaler")["spec"]["egress"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["0.0.0.0/0", "::/0"]
    own = [each for each in rendered(name) if each["kind"] == "CiliumNetworkPolicy"]
    assert [each["spec"]["egress"] for each in own] == (
        [[{"toEntities": ["kube-apiserver"]}]] if said(name).policies.kind == "cilium" else []
    )


def test_monitors_and_alerts_have_the_label_that_prometheus_selects_by() -> None:
    kinds = ("PodMonitor", "PrometheusRule")
    watched = [each["metadata"]["labels"] for each in rendered("production") if each["kind"] in kinds]
    assert len(watched) == 3
    assert all(labels["release"] == "kube-prometheus-stack" for labels in watched)


@pytest.mark.parametrize("name", RENDERED)
def test_a_pod_drains_by_itself_and_has_the_time_to(name: str) -> None:
    from symmoe.deployments.settings import Settings

    told = one(rendered(name), "ConfigMap", "symmoe-environment")["data"]
    drain = float(told["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert drain >= Settings().deadline
    for where, container, pod in containers(rendered(name)):
        assert "lifecycle" not in container, where  # `ray stop` would cut streams
        if container["name"] == "ray-worker":
            assert pod["terminationGracePeriodSeconds"] > drain


@pytest.mark.parametrize("name", RENDERED)
def test_weights_are_fetched_by_a_job_where_it_can_mount_the_volume(name: str) -> None:
    jobs = [each for each in rendered(name) if each["kind"] == "Job"]
    assert len(jobs) == (name != "the chart as shipped")
    for container in (job["spec"]["template"]["spec"]["containers"][0] for job in jobs):
        assert container["command"][:3] == ["symmoe", "k8s", "fetch"]
        assert not any("nvidia" in key for key in container["resources"]["limits"])


def test_who_fetches_weights_and_nobody_else_has_the_store_s_credentials() -> None:
    manifests = rendered("production")
    for where, container, _ in containers(manifests):
        told = {each["name"]: each for each in container.get("env", ())}
        assert ("AWS_SECRET_ACCESS_KEY" in told) == (container["name"] == "weights"), where
        if container["name"] == "weights":
            secret = told["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
            assert (secret["name"], secret["optional"]) == ("symmoe-s3", True)
            assert told["AWS_ENDPOINT_URL_S3"]["value"] == "https://minio.example.com:9000"
            assert told["AWS_REGION"]["value"] == "eu-central-1"
    assert one(manifests, "ConfigMap", "symmoe-environment")["data"]["HF_ENDPOINT"] == "https://hub.example.com"
    (rule,) = one(manifests, "NetworkPolicy", "symmoe-to-weights")["spec"]["egress"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["10.1.2.0/24"]
    assert [port["port"] for port in rule["ports"]] == [443, 9000]


def test_a_new_cluster_may_begin_at_the_size_of_the_old_one() -> None:
    group = cluster(rendered("production"))["workerGroupSpecs"][0]
    assert [group[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [0, 3, 16]


@pytest.mark.parametrize("name", RENDERED)
def test_what_another_cluster_still_needs_is_pruned_by_nobody(name: str) -> None:
    for kind in ("ConfigMap", "PersistentVolumeClaim", "Namespace"):
        for each in (m for m in rendered(name) if m["kind"] == kind):
            if not each["metadata"]["name"].startswith(("symmoe-dashboard", "symmoe-redis")):
                assert each["metadata"]["annotations"] == {
                    "helm.sh/resource-policy": "keep",
                    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
                }


def by_name(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


@pytest.fixture
def values_file(tmp_path: Path) -> Path:
    return tmp_path / "values.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", RENDERED)
def test_helm_gives_the_same_objects(name: str, kubernetes_tools: Path, values_file: Path) -> None:
    values_file.write_text(values_text(said(name), tuple(Values.model_fields)), encoding="utf-8")
    chart = str(Path(__file__).parents[2] / "k8s" / "chart")
    words = [kubernetes_tools / "helm", "template", "symmoe", chart, "--namespace", said(name).namespace]
    done = subprocess.run([*words, "-f", values_file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    given = [each for each in load_yamls(done.stdout) if each]
    assert len(given) == len(rendered(name))
    assert by_name(given) == by_name(rendered(name))
    values_file.write_text("doors: 1\n")
    refused = subprocess.run([*words, "-f", values_file], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "doors" in refused.stderr
    linted = subprocess.run([kubernetes_tools / "helm", "lint", chart], capture_output=True, text=True, timeout=60)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.slow
def test_kustomize_gives_the_same_objects(kubernetes_tools: Path, tmp_path: Path) -> None:
    write_installation(tmp_path, values_text(said("production")), said("production"))
    words = [kubernetes_tools / "kubectl", "kustomize", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert by_name(load_yamls(done.stdout)) == by_name(rendered("production"))
