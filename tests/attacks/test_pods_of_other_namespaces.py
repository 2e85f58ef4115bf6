"""Pods of other namespaces give themselves the labels that policies look for, and reach for Ray's ports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.k8s.conftest import RENDERED, one, rendered, said

NAMES = sorted(RENDERED)


def peers(name: str) -> Iterator[tuple[str, dict[str, Any], set[int]]]:
    """Every peer that a policy lets in, and by which ports."""
    for policy in (each for each in rendered(name) if each["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            for peer in rule["from"]:
                yield policy["metadata"]["name"], peer, {port["port"] for port in rule.get("ports", ())}


@pytest.mark.parametrize("name", NAMES)
def test_whoever_is_let_in_from_elsewhere_is_let_in_by_its_namespace(name: str) -> None:
    for where, peer, _ in peers(name):
        if "namespaceSelector" in peer:
            assert peer["namespaceSelector"].get("matchLabels"), where


@pytest.mark.parametrize("name", NAMES)
def test_the_job_api_is_open_to_the_operator_in_its_own_namespace_alone(name: str) -> None:
    space = said(name).policies.operator_namespace
    outside = [peer for _, peer, ports in peers(name) if "namespaceSelector" in peer and 8265 in ports]
    assert outside == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}},
        }
    ]


@pytest.mark.parametrize("name", NAMES)
def test_ray_asks_for_a_token(name: str) -> None:
    cluster = one(rendered(name), "RayService", "symmoe")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for template in templates:
        for container in template["template"]["spec"]["containers"]:
            assert not [each for each in container.get("env", ()) if each["name"].startswith("RAY_AUTH")]
