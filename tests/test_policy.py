"""What a policy takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from symmoe.config import read_pool
from symmoe.errors import RequestError
from symmoe.policy import catalogue, known_model, policy_for
from tests.conftest import echo_pool


@pytest.mark.parametrize(
    "said",
    [{"budget": math.nan}, {"budget": math.inf}, {"budget": 0}, {"quality": math.nan}, {"quality": 1.1}, {"k": 0}],
)
def test_a_number_that_bounds_nothing_is_refused_by_its_name(tmp_path: Path, said: dict[str, Any]) -> None:
    """As from Python, where nothing has looked at it before."""
    pool = read_pool(str(echo_pool(tmp_path)))
    with pytest.raises(RequestError, match=f"^{next(iter(said))}: ") as error:
        policy_for(pool, **said)
    assert error.value.param == next(iter(said))


@pytest.mark.parametrize(("name", "told"), [("poet\n", r"'poet\n'"), ("x" * 81, f"'{'x' * 79}…'")])
def test_a_model_that_there_is_not_is_named(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(RequestError) as error:
        known_model(catalogue(read_pool(str(echo_pool(tmp_path)))), name)
    assert str(error.value).startswith(f"no such model: {told}; ")
