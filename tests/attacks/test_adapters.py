"""An adapter that would spoil its base, or whose kind a merge gets wrong, is refused before it is used."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from symmoe.errors import CheckpointError
from symmoe.loading.verify import verify_adapter
from tests.loading.conftest import lora, write_adapter


def spoilt(number: float) -> dict[str, torch.Tensor]:
    tensors = lora()
    next(iter(tensors.values()))[1, 1] = number
    return tensors


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_by_its_tensor(number: float, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", spoilt(number))
    with pytest.raises(CheckpointError, match=r"lora_A\.weight holds numbers that are infinite or none"):
        verify_adapter(adapter, None)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_numbers_that_are_not_floating_point_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {key: tensor.to(dtype) for key, tensor in lora().items()})
    with pytest.raises(CheckpointError, match="not one of F16, BF16, F32"):
        verify_adapter(adapter, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("trainable_token_indices", [1]),
        ("use_qalora", True),
    ],
)
def test_a_kind_of_adapter_that_a_merge_gets_wrong_is_refused(option: str, value: object, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", lora(), **{option: value})
    with pytest.raises(CheckpointError, match=f"adapters with {option} are not supported"):
        verify_adapter(adapter, None)


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_a_scale_that_is_no_number_is_refused(alpha: float, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable rank and alpha"):
        verify_adapter(write_adapter(tmp_path / "adapter", lora(), lora_alpha=alpha), None)
