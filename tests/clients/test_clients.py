"""Each client does its ordinary thing, unpatched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import USES, Use

OTHERS = sorted(path.name for path in USES.glob("with_*.py") if path.name != "with_vllm_bench.py")


@pytest.mark.slow
@pytest.mark.parametrize("script", OTHERS)
def test_a_client_does_its_ordinary_thing(use: Use, environment: Path, script: str) -> None:
    use(script, environment)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["with_openai.py", "with_vllm_bench.py"])
def test_so_does_what_is_installed_beside_us(use: Use, script: str) -> None:
    use(script)
