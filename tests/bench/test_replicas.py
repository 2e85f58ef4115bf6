"""`symmoe bench replicas`, small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symmoe.bench import replicas


@pytest.mark.slow
def test_replicas_get_the_same_bytes_by_every_way_also_when_a_machine_dies(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(os.urandom(100_000_000))
    report = replicas.measure(tmp_path, replicas=3, throttle=50, repeats=1)
    assert report["exact"]
    assert report["late"] == "plain"
    (only,) = report["rounds"]
    assert only["together_ways"] == ["gathered", "gathered", "shared"], only["reason"]
    assert len(report["killed"]) >= 1


def test_what_the_page_cache_holds_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(os.urandom(3_000_000))
    seconds = replicas.measure_hot(tmp_path, rounds=2)
    assert set(seconds) == {"plain", "product"}
    assert all(each > 0 for each in seconds.values())
