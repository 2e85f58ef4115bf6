"""Dashboard and alerts name only metrics that the service defines, and the documentation explains every alert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from .conftest import ROOT, one, rendered

NAME = re.compile(r"(?:symmoe_|vllm:)[a-z_]+")


def defined() -> set[str]:
    """Every name under which the service's metrics can be asked for."""
    pytest.importorskip("fastapi")
    from symmoe.deployments.api.metrics import Metrics

    names = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {f"{family.name}{suffix}" for suffix in suffixes}
    return names


def rules() -> list[dict[str, Any]]:
    (group,) = one(rendered("small-2026 on H100"), "PrometheusRule", "symmoe")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        one(rendered("small-2026 on H100"), "ConfigMap", "symmoe-dashboard")["data"]["symmoe.json"]
    )
    return loaded


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_every_metric_that_is_named_is_defined() -> None:
    named = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(named) > 8
    assert {"vllm:kv_cache_usage_perc", "vllm:num_preemptions_total", "vllm:generation_tokens_total"} <= named
    assert named - defined() == set()


def test_prometheus_can_read_every_expression() -> None:
    for expression in expressions():
        promql_parser.parse(expression.replace("$__rate_interval", "5m"))  # Grafana's, as it fills it in
        assert NAME.search(expression)
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum(rate(symmoe_requests_total[5m])")


def test_panels_are_distinct_described_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_documentation_says_what_each_alert_means() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for rule in rules():
        assert f"`{rule['alert']}`" in text
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_scraped_ports_are_ports_of_the_pods() -> None:
    cluster = one(rendered("small-2026 on H100"), "RayService", "symmoe")["spec"]["rayClusterConfig"]
    front = cluster["workerGroupSpecs"][1]["template"]
    ports = {port["name"] for port in front["spec"]["containers"][0]["ports"]}
    monitors = [each for each in rendered("small-2026 on H100") if each["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
        wanted = monitor["spec"]["selector"].get("matchLabels", {})
        assert wanted.items() <= front["metadata"]["labels"].items()
