"""Checkpoints of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS

OUT, IN, RANK = 6, 4, 2
TARGET = "model.layers.0.self_attn.q_proj"


def write_adapter(directory: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / ADAPTER_WEIGHTS)
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "use_rslora": False} | config
    (directory / ADAPTER_CONFIG).write_text(json.dumps(document), encoding="utf-8")
    return directory


def lora(target: str = TARGET, rows: int = OUT, columns: int = IN) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return {
        f"base_model.model.{target}.lora_A.weight": torch.randn(RANK, columns, generator=numbers),
        f"base_model.model.{target}.lora_B.weight": torch.randn(rows, RANK, generator=numbers),
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model of two files, three tensors."""
    directory = tmp_path / "base"
    directory.mkdir()
    numbers = torch.Generator().manual_seed(0)
    first = {
        f"{TARGET}.weight": torch.randn(OUT, IN, generator=numbers).bfloat16(),
        "model.norm.weight": torch.ones(IN).bfloat16(),
    }
    save_file(first, directory / "model-00001-of-00002.safetensors")
    second = {"lm_head.weight": torch.randn(3, IN, generator=numbers)}
    save_file(second, directory / "model-00002-of-00002.safetensors")
    (directory / "config.json").write_text("{}", encoding="utf-8")
    return directory


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that fits the base."""
    return write_adapter(tmp_path / "adapter", lora())
