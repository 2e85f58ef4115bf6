"""The benchmark of loading, small, on a GPU: every way gives the right bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_loading.main import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_every_way_of_loading_gives_the_right_bits_or_a_reason(tmp_path: Path) -> None:
    out, models = tmp_path / "report.json", tmp_path / "models"
    models.mkdir()
    assert main(["--scale", "0.02", "--rounds", "7", "--directory", str(models), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert not report["dry_run"]
    assert len(report["cells"]) == 14
    for row in report["cells"]:
        assert row["status"] == "ok" or (row["cell"] == "6" and row["reason"]), row
        assert row["status"] != "ok" or (row["bit_exact"] and row["min_s"] <= row["median_s"] <= row["max_s"])
    assert report["peak"]["gb_per_s"] > 1
    assert list(models.iterdir()) == []
