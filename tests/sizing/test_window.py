"""How many tokens a model takes, against what vLLM derives from the same config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from symmoe.config import read_pool
from symmoe.sizing.architecture import Architecture
from symmoe.sizing.cluster import size_cluster
from symmoe.sizing.configs import known_configs
from symmoe.sizing.window import window_of

PLAIN = {"model_type": "llama", "max_position_embeddings": 4096}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "long_factor": [1.0] * 8, "short_factor": [1.0] * 8}
ELSEWHERE = {"within a text config", "a rotation for each kind of layer"}
"""Shapes that only models with parts have, which vLLM reads through their own classes."""
CONFIGS: dict[str, tuple[dict[str, Any], int | None]] = {
    "nothing stated": ({"model_type": "llama"}, None),
    "plain": (PLAIN, 4096),
    "within a text config": ({"model_type": "gemma3", "text_config": PLAIN}, 4096),
    "linear": ({**PLAIN, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 16384),
    "linear, as it was written before": ({**PLAIN, "rope_scaling": {"type": "linear", "factor": 2}}, 8192),
    "dynamic": ({**PLAIN, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
    "llama 3 says what it reaches": ({**PLAIN, "rope_scaling": LLAMA3}, 4096),
    "longrope says what it reaches": ({**PLAIN, "rope_scaling": LONG}, 4096),
    "yarn": ({**PLAIN, "max_position_embeddings": 40960, "rope_scaling": YARN}, 131072),
    "under the newer name": ({**PLAIN, "rope_parameters": YARN}, 131072),
    "a rotation for each kind of layer": (
        {**PLAIN, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        32768,
    ),
    "gemma 3 says what it reaches": (
        {
            "model_type": "gemma3_text",
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "linear", "factor": 8},
        },
        32768,
    ),
    "the least of several": ({**PLAIN, "seq_length": 2048}, 2048),
    "its own name for it": ({**PLAIN, "model_max_length": 8192}, 8192),
    "null": ({**PLAIN, "rope_scaling": None}, 4096),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_window_is_what_the_config_says(name: str) -> None:
    config, window = CONFIGS[name]
    assert window_of(config) == window


def test_sizes_are_for_the_stretched_window() -> None:
    stretched = {**known_configs()["Qwen/Qwen2.5-7B-Instruct"], "rope_scaling": YARN}
    assert Architecture.of(stretched, "qwen").window == 131072


def test_a_model_made_for_less_is_noted_and_not_refused() -> None:
    notes = size_cluster(read_pool("symbolic-moe-16"), "H100", 1, 1).notes
    assert "deepseek-math was made for 4096 tokens: it is given no more of the 16384 of engine.max_model_len" in notes


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - ELSEWHERE - {"nothing stated"}))
def test_vllm_derives_the_same(name: str, tmp_path: Path) -> None:
    """Its own function, on the config as transformers reads it."""
    model = pytest.importorskip("vllm.config.model")
    transformers = pytest.importorskip("transformers")
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    config, window = CONFIGS[name]
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**shape, **config}))
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    convertor = ModelArchConfigConvertorBase.__new__(ModelArchConfigConvertorBase)
    convertor.hf_text_config = read

    class Derived:
        derived_max_model_len_and_key = convertor.derive_max_model_len_and_key()

    def derived(wanted: int) -> int:
        found: int = model._get_and_verify_max_len(read, Derived, None, wanted, False, None)
        return found

    assert window is not None
    assert derived(window) == window
    with pytest.raises(ValueError, match="greater than the derived"):
        derived(window + 1)
