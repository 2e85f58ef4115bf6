"""A service that the benchmark starts itself."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from symmoe.deployments.bench.crowd import crowd
from symmoe.deployments.bench.load import Ask, closed
from symmoe.deployments.bench.machine import resident
from symmoe.deployments.bench.services import symmoe_serve

from symmoe.errors import EngineError
from tests.conftest import echo_pool
from tests.deployments.conftest import gone


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_symmoe_is_started_as_anybody_would_and_leaves_no_process(tmp_path: Path) -> None:
    pool = echo_pool(tmp_path / "pool", ("adder", "sorter"))
    with symmoe_serve(str(pool)) as side:
        (outcome,) = crowd(side.url, closed([Ask("sorter", "sums 1", 8, stream=True)], 1))
        started = psutil.Process(side.pid).children(recursive=True)
        assert any("ingress" in name for name in resident(side.pid))
    assert outcome.text == "sorter: sums 1"
    assert gone(started)


@pytest.mark.usefixtures("state")
def test_a_service_that_does_not_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.yaml: no such pool file"), symmoe_serve(str(tmp_path / "none.yaml")):
        pass
