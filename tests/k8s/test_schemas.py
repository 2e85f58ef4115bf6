"""Every manifest against the schemas of Kubernetes, and RayService ones against KubeRay's definition."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from symmoe.yaml_text import load_yaml

from .conftest import RENDERED, ROOT, pods, rendered

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
DEFINITION = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayservices.yaml"
CUSTOM = {
    "RayService": "ray.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "CiliumNetworkPolicy": "cilium.io/v2",
    "ResourceClaimTemplate": "resource.k8s.io/v1",
}
FIELDS = Path(__file__).with_name("kuberay_fields.yaml")
KUBERNETES_OWN = {"template", "resources", "env", "volumeMounts", "securityContext", "valueFrom"}
"""Fields below which KubeRay has Kubernetes' own types, which are held to Kubernetes' schemas; and free text."""
DEPRECATED = {
    "serviceUnhealthySecondThreshold",
    "deploymentUnhealthySecondThreshold",
    "ray.io/ft-enabled",
    "ray.io/external-storage-namespace",
    "enableIngress",
    "redis-password",
}


def all_keys(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(all_keys, node))
    if isinstance(node, dict):
        return set(node) | set().union(*map(all_keys, node.values()))
    return set()


def kuberays_own(node: Any, place: str = "") -> set[str]:
    """Every field of KubeRay's own, by its path."""
    if isinstance(node, list):
        return set().union(*(kuberays_own(each, place) for each in node))
    if not isinstance(node, dict) or place.rpartition(".")[2] in {*KUBERNETES_OWN, "rayStartParams"}:
        return set()
    found = {f"{place}.{key}".removeprefix(".") for key in node}
    return found.union(*(kuberays_own(value, f"{place}.{key}".removeprefix(".")) for key, value in node.items()))


def strict(schema: Any) -> Any:
    """The schema with unknown fields forbidden, as a server with strict field validation has it."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        result["additionalProperties"] = False
    return result


def service_of(name: str) -> dict[str, Any]:
    (service,) = [each for each in rendered(name) if each["kind"] == "RayService"]
    return service


@cache
def definition() -> dict[str, Any]:
    custom = load_yaml(DEFINITION.read_text(encoding="utf-8"))
    (version,) = [each for each in custom["spec"]["versions"] if each["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return strict({**schema, "properties": {"metadata": {"type": "object"}, **schema["properties"]}})


@cache
def accepted(document: str, version: str) -> bool:
    """Whether a version of Kubernetes takes an object, told once for all renderings that have it. Raises where not."""
    pytest.importorskip("kubernetes_validate").validate(json.loads(document), version, strict=True)
    return True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(RENDERED))
def test_kubernetes_accepts_every_manifest(name: str, version: str) -> None:
    for manifest in rendered(name):
        if manifest["kind"] in CUSTOM:
            assert manifest["apiVersion"] == CUSTOM[manifest["kind"]]
        else:
            assert accepted(json.dumps(manifest), version)
    for _, template in pods(rendered(name)):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod"}}
        assert accepted(json.dumps(pod), version)


@pytest.mark.skipif(not DEFINITION.exists(), reason="KubeRay's definition is not beside the checkout")
@pytest.mark.parametrize("name", sorted(RENDERED))
def test_kuberay_accepts_the_service(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    service = service_of(name)
    problems = [
        f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(definition()).iter_errors(service)
    ]
    assert problems == []


@pytest.mark.skipif(not DEFINITION.exists(), reason="KubeRay's definition is not beside the checkout")
def test_the_definition_is_held_strictly() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    service = service_of("small-2026 on H100")
    for change in ({"misspelt": 1}, {"serveConfigV2": 1}, {"rayClusterConfig": {"workerGroupSpecs": [{}]}}):
        changed = {**service, "spec": {**service["spec"], **change}}
        assert list(jsonschema.Draft202012Validator(definition()).iter_errors(changed))


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_no_deprecated_field_is_used(name: str) -> None:
    assert all_keys(rendered(name)) & DEPRECATED == set()


def release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_least_kuberay_that_the_documentation_tells_has_every_field() -> None:
    since = {field: at for at, fields in load_yaml(FIELDS.read_text(encoding="utf-8")).items() for field in fields}
    used = {field for name in RENDERED for field in kuberays_own(service_of(name)["spec"])}
    assert used == since.keys()
    (told,) = re.findall(
        r"^\| KubeRay \| (\d+\.\d+\.\d+) ", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE
    )
    assert max(map(release, since.values())) == release(told)
