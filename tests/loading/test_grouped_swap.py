"""Writing experts into a running model: a small one, shaped as vLLM shapes its layers, with stand-in kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from symmoe.errors import CheckpointError
from symmoe.loading import grouped_swap
from symmoe.loading.grouped_swap import Binding, Kernel, KernelCache
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import Layout

from .conftest import lora, write_adapter

VOCABULARY, HIDDEN = 12, 8
ATTENTION = "model.layers.0.self_attn"
Weights = dict[str, torch.Tensor]


class UnquantizedLinearMethod:
    """Bears the name of vLLM's method for plain weights."""


class Layer(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, kernel: bool = False, method: Any = UnquantizedLinearMethod) -> None:
        super().__init__()
        self.quant_method = method()
        self.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        if kernel:
            self.take(weight)

    def take(self, weight: torch.Tensor) -> None:
        """Pack the weight away, as vLLM does on a CPU."""
        self.output_size_per_partition, self.input_size_per_partition = weight.shape
        self.cpu_linear = multiplying(weight).multiply
        self.weight = torch.nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)


class Tied(torch.nn.Module):
    """An output head that multiplies by the embedding through a kernel of its own."""

    def __init__(self, embedding: Layer) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.cpu_linear = multiplying(embedding.weight).multiply


class Model(torch.nn.Module):
    def __init__(self, weights: Weights, kernels: bool, **layer: Any) -> None:
        super().__init__()
        fused = torch.cat([weights[f"{ATTENTION}.{part}_proj.weight"] for part in "qkv"])
        block = torch.nn.Module()
        block.self_attn = torch.nn.Module()
        block.self_attn.qkv_proj = Layer(fused, kernels, **layer)
        self.model = torch.nn.Module()
        self.model.embed_tokens = Layer(weights["model.embed_tokens.weight"])
        self.model.layers = torch.nn.ModuleList([block])
        self.model.norm = torch.nn.Module()
        self.model.norm.weight = torch.nn.Parameter(weights["model.norm.weight"].clone(), requires_grad=False)
        if kernels:
            self.lm_head = Tied(self.model.embed_tokens)

    def forward(self, token: int) -> torch.Tensor:
        state = self.model.embed_tokens.weight[token][None] * self.model.norm.weight
        layer = self.model.layers[0].self_attn.qkv_proj
        mixed = layer.cpu_linear(state, layer.weight, None) if hasattr(layer, "cpu_linear") else state @ layer.weight.T
        state = mixed.view(3, HIDDEN).sum(0, keepdim=True)
        head = getattr(self, "lm_head", None)
        return head.cpu_linear(state, None, None) if head else state @ self.model.embed_tokens.weight.T


def multiplying(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Kernel:
    own = weight.clone()
    return Kernel(lambda x, weight, bias: torch.nn.functional.linear(x, own, bias), own.numel() * own.element_size())


@pytest.fixture(autouse=True)
def _stand_in_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_swap, "make_kernel", multiplying)


def weights(seed: int) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    attention = {f"{ATTENTION}.{part}_proj.weight": torch.randn(HIDDEN, HIDDEN, generator=draw) for part in "qkv"}
    return attention | {
        "model.embed_tokens.weight": torch.randn(VOCABULARY, HIDDEN, generator=draw),
        "model.norm.weight": torch.randn(HIDDEN, generator=draw),
    }


def base_and_adapted(directory: Path) -> tuple[PackedCheckpoint, PackedCheckpoint]:
    """Images of a base and of an adapter on it that changes a part of the attention."""
    adapter = write_adapter(directory / "adapter", lora(f"{ATTENTION}.q_proj", HIDDEN, HIDDEN))
    return image(directory / "base", weights(1)), image(directory / "base", weights(1), adapter)


def image(directory: Path, tensors: Weights, adapter: Path | None = None) -> PackedCheckpoint:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}", encoding="utf-8")
    layout = Layout.of(str(directory), str(adapter) if adapter else None)
    memory = bytearray(layout.nbytes)
    layout.write_into(memoryview(memory))
    return PackedCheckpoint.from_buffer(memoryview(memory))


def bound(tensors: Weights, packed: PackedCheckpoint, kernels: bool, budget: int = 1 << 20) -> tuple[Model, Binding]:
    model = Model(tensors, kernels)
    return model, Binding(model, packed.manifest.tags(), budget)


def logits(model: Model) -> torch.Tensor:
    return torch.cat([model(token) for token in range(VOCABULARY)])


@pytest.mark.parametrize("kernels", [False, True])
def test_after_a_swap_the_model_computes_what_a_fresh_one_does(tmp_path: Path, kernels: bool) -> None:
    one, two = weights(1), weights(2)
    images = {"one": image(tmp_path / "one", one), "two": image(tmp_path / "two", two)}
    model, binding = bound(one, images["one"], kernels)
    for name, tensors in (("two", two), ("one", one), ("two", two)):
        binding.swap(name, images[name])
        torch.testing.assert_close(logits(model), logits(Model(tensors, kernels)))


def test_of_an_adapter_only_what_it_changes_is_written(tmp_path: Path) -> None:
    base, adapted = base_and_adapted(tmp_path)
    model, binding = bound(weights(1), base, kernels=True)
    assert binding.swap("base", base) == 0
    assert binding.swap("adapted", adapted) == 3 * HIDDEN * HIDDEN * 4
    torch.testing.assert_close(logits(model), logits(Model(dict(adapted.tensors()), kernels=True)))


def test_an_expert_whose_kernels_are_held_is_served_again_without_its_image(tmp_path: Path) -> None:
    base, adapted = base_and_adapted(tmp_path)
    model, binding = bound(weights(1), base, kernels=True)
    assert not binding.rebind("adapted")
    binding.swap("adapted", adapted)
    binding.swap("base", base)
    for name, held in (("adapted", adapted), ("base", base)):
        assert binding.rebind(name)
        torch.testing.assert_close(logits(model), logits(Model(dict(held.tensors()), kernels=True)))


def test_an_expert_whose_kernels_went_is_not_served_again_without_its_image(tmp_path: Path) -> None:
    base, adapted = base_and_adapted(tmp_path)
    model, binding = bound(weights(1), base, kernels=True, budget=0)
    binding.swap("adapted", adapted)
    binding.swap("base", base)
    assert not binding.rebind("adapted")
    torch.testing.assert_close(logits(model), logits(Model(weights(1), kernels=True)))


def test_after_a_failed_swap_the_next_one_writes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = weights(1), weights(2)
    first, second = image(tmp_path / "one", one), image(tmp_path / "two", two)
    model, binding = bound(one, first, kernels=True)

    def failing(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
        raise MemoryError("no memory for a kernel")

    with monkeypatch.context() as patch:
        patch.setattr(grouped_swap, "make_kernel", failing)
        with pytest.raises(MemoryError):
            binding.swap("two", second)
    assert not binding.rebind("one")
    binding.swap("one", first)
    torch.testing.assert_close(logits(model), logits(Model(one, kernels=True)))


def test_a_kernel_that_multiplies_by_something_else_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = image(tmp_path / "one", weights(1)), image(tmp_path / "two", weights(2))
    _, binding = bound(weights(1), first, kernels=True)
    monkeypatch.setattr(grouped_swap, "make_kernel", lambda weight, bias: multiplying(-weight))
    with pytest.raises(CheckpointError, match="does not multiply"):
        binding.swap("two", second)


def test_an_expert_with_other_tensors_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    one = weights(1)
    first = image(tmp_path / "one", one)
    more = image(tmp_path / "more", {**weights(2), "model.extra.weight": torch.ones(1)})
    model, binding = bound(one, first, kernels=True)
    with pytest.raises(CheckpointError, match="not those of the running model"):
        binding.swap("more", more)
    torch.testing.assert_close(logits(model), logits(Model(one, kernels=True)))


def test_a_model_with_layers_that_repack_their_weights_is_not_bound(tmp_path: Path) -> None:
    first = image(tmp_path / "one", weights(1))
    model = Model(weights(1), kernels=False, method=type("AWQLinearMethod", (), {}))
    with pytest.raises(CheckpointError, match="AWQLinearMethod"):
        Binding(model, first.manifest.tags(), 0)


@pytest.mark.parametrize(("missing", "said"), [("model.norm.weight", "no tensor"), (None, "no place")])
def test_a_checkpoint_that_does_not_match_the_model_is_not_bound(missing: str | None, said: str) -> None:
    names = dict.fromkeys(weights(1), "tag")
    if missing:
        del names[missing]
    else:
        names["model.layers.1.mlp.weight"] = "tag"
    with pytest.raises(CheckpointError, match=said):
        Binding(Model(weights(1), kernels=False), names, 0)


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=1, max_size=12),
    st.integers(0, 40),
)
def test_idle_kernels_never_take_more_than_the_budget(turns: list[set[str]], budget: int) -> None:
    cache = KernelCache(budget)
    for turn, wanted in enumerate(turns):
        cache.expect([{(name,) for name in later} for later in turns[turn:]])
        for name in wanted:
            if cache.get((name,)) is None:
                cache.put((name,), Kernel(lambda: None, 10))
        cache.use({(name,) for name in wanted})
        assert all(cache.get((name,)) for name in wanted)
        assert sum(10 for name in "abcdefgh" if cache.get((name,))) <= budget + 10 * len(wanted)


def test_the_kernel_that_is_needed_last_goes_first_and_one_not_expected_before_all() -> None:
    cache = KernelCache(20)
    for name in "abcd":
        cache.put((name,), Kernel(lambda: None, 10))
    cache.expect([{("b",)}, {("c",)}, {("a",)}])
    cache.use({("b",)})
    assert [name for name in "abcd" if cache.get((name,))] == ["a", "b", "c"]
