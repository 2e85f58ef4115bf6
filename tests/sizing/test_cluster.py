"""The sixteen experts on GPUs of 24, 48 and 80 GB against cases computed by hand, and what refusals say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from symmoe.config import Pool, read_pool
from symmoe.errors import CapacityError, PoolError, RequestError
from symmoe.sizing.architecture import architectures
from symmoe.sizing.cluster import size_cluster
from symmoe.sizing.fitting import accelerator, need

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
