"""What a cluster's policies ask for, of everything that is rendered."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from .conftest import RENDERED, containers, one, pods, rendered, said

NAMES = sorted(RENDERED)
PORTS = {6379: "gcs-server redis", 8265: "dashboard", 8080: "metrics", 8000: "serve"}
SECRET = re.compile(
    r"(?i)(password|token|secret|api_?key)\s*[:=]\s*\S|requirepass\s+\S|hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9]{20}"
)


@pytest.mark.parametrize("name", NAMES)
def test_no_container_runs_as_root_or_can_become_it(name: str) -> None:
    for where, container, pod in containers(rendered(name)):
        inner, outer = container["securityContext"], pod["securityContext"]
        assert {**outer, **inner}["runAsNonRoot"] is True, where
        assert {**outer, **inner}.get("runAsUser", 10000) >= 10000, where
        assert said(name).openshift != ("runAsUser" in {**outer, **inner}), where
        assert inner["allowPrivilegeEscalation"] is False, where
        assert inner["readOnlyRootFilesystem"] is True, where
        assert inner["capabilities"] == {"drop": ["ALL"]}, where
        assert outer["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), where
        assert not any("hostPath" in volume for volume in pod["volumes"]), where


@pytest.mark.parametrize("name", NAMES)
def test_the_autoscaler_beside_the_head_is_as_confined(name: str) -> None:
    options = one(rendered(name), "RayService", "symmoe")["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert options["securityContext"]["runAsNonRoot"] is True
    assert options["securityContext"]["readOnlyRootFilesystem"] is True
    assert options["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert options["resources"]["limits"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("name", NAMES)
def test_no_container_is_without_requests_and_limits(name: str) -> None:
    for where, container, _ in containers(rendered(name)):
        for side in ("requests", "limits"):
            assert container["resources"][side].keys() >= {"cpu", "memory", "ephemeral-storage"}, where


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_lives_on_is_probed(name: str) -> None:
    for where, pod in pods(rendered(name)):
        for container in pod["spec"]["containers"]:
            assert container["name"] == "weights" or container.keys() >= {"readinessProbe", "livenessProbe"}, where


@pytest.mark.parametrize("name", NAMES)
def test_what_must_be_written_can_be_and_memory_backed_volumes_are_bounded(name: str) -> None:
    for where, container, pod in containers(rendered(name)):
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounted, where  # noqa: S108
        assert where.startswith("symmoe-redis") or container["name"] == "weights" or "/dev/shm" in mounted, where  # noqa: S108
        for volume in pod["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], where


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_stands_in_a_manifest_and_no_config_map_holds_one(name: str) -> None:
    manifests = rendered(name)
    assert not [each for each in manifests if each["kind"] == "Secret"]
    for each in manifests:
        if each["kind"] == "ConfigMap":
            assert not [key for key, text in each["data"].items() if SECRET.search(text)], each["metadata"]["name"]
    for where, container, _ in containers(manifests):
        for variable in container.get("env", ()):
            if re.search(r"PASSWORD|TOKEN|AUTH$|KEY$", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], (where, variable["name"])


@pytest.mark.parametrize("text", ["requirepass hunter2", "HF_TOKEN=hf_0123", "password: x", "API_KEY = abc"])
def test_the_search_for_secrets_finds_them(text: str) -> None:
    assert SECRET.search(text)


@pytest.mark.parametrize("name", NAMES)
def test_no_token_of_the_cluster_is_mounted_but_the_autoscalers_own(name: str) -> None:
    manifests = rendered(name)
    for account in (each for each in manifests if each["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for where, pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False, where
        tokens = {volume["name"] for volume in pod["spec"]["volumes"] if "projected" in volume}
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            assert not tokens & {mount["name"] for mount in container["volumeMounts"]}, where


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_ports_are_open(name: str) -> None:
    for where, container, _ in containers(rendered(name)):
        for port in container.get("ports", ()):
            assert port["name"] in PORTS[port["containerPort"]].split(), where
            assert "hostPort" not in port, where
    for service in (each for each in rendered(name) if each["kind"] == "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert {port["port"] for port in service["spec"]["ports"]} <= PORTS.keys()


def inner(rule: dict[str, Any]) -> bool:
    """Whether a rule lets in only pods of this namespace."""
    return bool(rule.get("from")) and all(set(peer) == {"podSelector"} for peer in rule["from"])


@pytest.mark.parametrize("name", NAMES)
def test_only_the_ingress_can_be_reached_from_outside_of_the_namespace(name: str) -> None:
    policies = [each for each in rendered(name) if each["kind"] == "NetworkPolicy"]
    deny = one(rendered(name), "NetworkPolicy", "symmoe-deny-all")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outer = {
        policy["metadata"]["name"]: {port["port"] for port in rule["ports"]}
        for policy in policies
        for rule in policy["spec"].get("ingress", ())
        if not inner(rule)
    }
    allowed = {"symmoe-ingress": {8000}, "symmoe-operator": {8265, 8000}, "symmoe-scraping": {8000, 8080}}
    assert outer.items() <= allowed.items()
    assert "symmoe-ingress" in outer
    for policy in policies:
        for rule in policy["spec"].get("ingress", ()):
            assert all(peer for peer in rule["from"]), policy["metadata"]["name"]


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_is_met_by_a_policy_that_lets_in_only_what_it_serves(name: str) -> None:
    redis = [
        policy
        for policy in rendered(name)
        if policy["metadata"]["name"] == "symmoe-redis" and policy["kind"] == "NetworkPolicy"
    ]
    for policy in redis:
        (rule,) = policy["spec"]["ingress"]
        assert inner(rule)
        assert [port["port"] for port in rule["ports"]] == [6379]
    for where, pod in pods(rendered(name)):
        labels = pod["metadata"]["labels"]
        assert ("symmoe/ray" in labels) == (not where.startswith(("symmoe-redis", "symmoe-weights")))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_reaches_the_metadata_service(name: str) -> None:
    for policy in (each for each in rendered(name) if each["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            for peer in rule["to"]:
                block = ip_network(peer["ipBlock"]["cidr"]) if "ipBlock" in peer else None
                for address in ("169.254.169.254", "fd00:ec2::254"):
                    if block is not None and ip_address(address) in block:
                        assert any(ip_address(address) in ip_network(each) for each in peer["ipBlock"]["except"])


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_pinned_by_version(name: str) -> None:
    for where, container, _ in containers(rendered(name)):
        _, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z0-9.]+)?", tag), where


@pytest.mark.parametrize("name", NAMES)
def test_disruption_budgets_meet_pods_that_there_are(name: str) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(rendered(name))]
    for budget in (each for each in rendered(name) if each["kind"] == "PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert any(wanted.items() <= each.items() for each in labels), budget["metadata"]["name"]
        groups = one(rendered(name), "RayService", "symmoe")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        (group,) = [each for each in groups if each["groupName"] == wanted["app.kubernetes.io/component"]]
        assert group["minReplicas"] > budget["spec"]["minAvailable"]  # else a drain waits for ever
        assert "maxUnavailable" not in budget["spec"]  # needs a scale, which Ray's pods have none of
