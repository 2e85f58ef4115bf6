"""What a batch wrote is read by what people read tables with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Symmoe
from tests.cli.conftest import pool as pool
from tests.cli.conftest import symmoe_command as symmoe_command
from tests.clients.conftest import USES


@pytest.mark.slow
def test_pandas_and_datasets_read_every_output(
    environment: Path, symmoe_command: Symmoe, pool: Path, tmp_path: Path
) -> None:
    source = Path(__file__).parent.parent / "batch" / "public" / "arc.jsonl"
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        output = tmp_path / "outputs" / name
        assert symmoe_command("batch", "run", source, "-o", output, "--pool", pool).code == 0
    done = subprocess.run(
        [environment, USES / "reads_outputs.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-6000:]
