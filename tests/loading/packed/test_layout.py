from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import CheckpointError
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merged_weights
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import FUSIONS, Layout, in_order
from tests.loading.conftest import lora, write_adapter
from tests.loading.packed.conftest import CHUNK, HIDDEN, Q_PROJ, differing, image_of, llama, same_bits, write_model

NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{module}"
        for layer in range(12)
        for module in (
            "input_layernorm.weight",
            "mlp.down_proj.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
            "self_attn.k_proj.bias",
            "self_attn.k_proj.weight",
            "self_attn.o_proj.weight",
            "self_attn.q_proj.bias",
            "self_attn.q_proj.weight",
            "self_attn.v_proj.bias",
            "self_attn.v_proj.weight",
        )
    ),
    "model.norm.weight",
]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_fused_lies_side_by_side_in_the_order_of_the_fusion(seed: int) -> None:
    names = in_order(random.Random(seed).sample(NAMES, len(NAMES)))
    for layer in range(12):
        for part, kinds in (("self_attn", ("weight", "bias")), ("mlp", ("weight",))):
            fusion = FUSIONS["qkv_proj" if part == "self_attn" else "gate_up_proj"]
            for kind in kinds:
                wanted = [f"model.layers.{layer}.{part}.{member}.{kind}" for member in fusion]
                at = names.index(wanted[0])
                assert names[at : at + len(wanted)] == wanted


def test_layers_come_in_the_order_of_their_numbers() -> None:
    layers = [int(name.split(".")[2]) for name in in_order(NAMES) if ".layers." in name]
    assert layers == sorted(layers)


@given(st.lists(st.text(alphabet="ab1.²٣q_projkv", max_size=12), unique=True))
def test_the_order_keeps_every_name_and_does_not_depend_on_the_order_given(names: list[str]) -> None:
    ordered = in_order(names)
    assert sorted(ordered) == sorted(names)
    assert in_order(reversed(names)) == ordered


def tensors_of(image: bytearray) -> dict[str, torch.Tensor]:
    return dict(PackedCheckpoint.from_buffer(memoryview(image)).tensors())


def assert_same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not same_bits(left[name], right[name])] == []


def test_an_image_holds_the_tensors_of_the_base_bit_for_bit(model: Path) -> None:
    assert_same(tensors_of(image_of(Layout.of(str(model)))), llama())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("adapted", [torch.bfloat16, torch.float32])
def test_an_image_holds_merged_weights_bit_for_bit(tmp_path: Path, dtype: torch.dtype, adapted: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in llama().items()}
    changes = lora(Q_PROJ, 16, HIDDEN) | lora("model.layers.1.mlp.down_proj", HIDDEN, 32)
    model = str(write_model(tmp_path / "model", tensors))
    adapter = str(write_adapter(tmp_path / "adapter", {name: each.to(adapted) for name, each in changes.items()}))
    threads = torch.get_num_threads()
    merged = tensors_of(image_of(Layout.of(model, adapter)))
    assert_same(merged, dict(merged_weights(model, adapter)))
    assert not same_bits(merged[f"{Q_PROJ}.weight"], tensors[f"{Q_PROJ}.weight"])
    assert torch.get_num_threads() == threads


def test_a_model_in_several_files_is_one_image(tmp_path: Path) -> None:
    tensors = llama()
    parts = [dict(list(tensors.items())[start::3]) for start in range(3)]
    assert_same(tensors_of(image_of(Layout.of(str(write_model(tmp_path, *parts))))), tensors)


def test_only_files_that_the_index_names_count(tmp_path: Path) -> None:
    tensors = llama()
    model = write_model(tmp_path, tensors, tensors)
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: has .*, which model-0\.safetensors has too"):
        Layout.of(str(model))
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model-0.safetensors")}), encoding="utf-8")
    assert_same(tensors_of(image_of(Layout.of(str(model)))), tensors)
    assert_same(dict(merged_weights(str(model), None)), tensors)


def test_tensors_and_data_are_aligned_and_nothing_of_the_buffer_before_is_left(model: Path) -> None:
    layout = Layout.of(str(model))
    image = image_of(layout)
    assert layout.begin % 4096 == 0
    assert len(image) % 4096 == 0
    assert all(tensor.offset % 256 == 0 for tensor in layout.manifest.tensors)
    ends = [0, *(tensor.offset + tensor.nbytes for tensor in layout.manifest.tensors)]
    starts = [*(tensor.offset for tensor in layout.manifest.tensors), layout.manifest.data_bytes]
    gaps = [image[layout.begin + end : layout.begin + start] for end, start in zip(ends, starts, strict=True)]
    assert any(gaps)
    assert not any(any(gap) for gap in gaps)


@pytest.mark.parametrize("digests", [False, True])
def test_the_same_sources_give_the_same_image_whatever_the_buffer_held(model: Path, digests: bool) -> None:
    layout = Layout.of(str(model), chunk_bytes=CHUNK)
    blank = bytearray(layout.nbytes + 100)
    layout.write_into(memoryview(blank), digests=digests)
    assert blank[: layout.nbytes] == image_of(layout, digests)
    assert not any(blank[layout.nbytes :])


def test_what_is_fused_is_one_view_of_the_image(model: Path) -> None:
    image = image_of(Layout.of(str(model)))
    packed = PackedCheckpoint.from_buffer(memoryview(image))
    names = [f"model.layers.1.self_attn.{side}_proj.weight" for side in "qkv"]
    fused = packed.fused(names)
    assert fused is not None
    assert same_bits(fused, torch.cat([packed.tensor(name) for name in names]))
    assert fused.data_ptr() == packed.tensor(names[0]).data_ptr()


@pytest.mark.parametrize(
    "names",
    [
        ["model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.q_proj.weight"],
        ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight"],
        ["model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.gate_proj.weight"],
        ["model.layers.0.input_layernorm.weight", "model.layers.0.mlp.down_proj.weight"],
        [],
    ],
    ids=["wrong order", "not neighbours", "other shape", "padding between", "none"],
)
def test_what_does_not_lie_side_by_side_is_not_fused(model: Path, names: list[str]) -> None:
    assert PackedCheckpoint.from_buffer(memoryview(image_of(Layout.of(str(model))))).fused(names) is None


def test_a_name_that_shares_another_ones_storage_is_an_alias(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3, bias=False)
            self.head.weight = self.embed.weight

    model = write_model(tmp_path)
    save_model(Tied(), str(model / "model.safetensors"))
    image = image_of(Layout.of(str(model)))
    packed = PackedCheckpoint.from_buffer(memoryview(image))
    assert set(dict(packed.tensors())) == {"embed.weight", "head.weight"}
    assert len(packed.manifest.tensors) == 1
    assert packed.tensor("embed.weight").data_ptr() == packed.tensor("head.weight").data_ptr()


def test_experts_of_one_base_differ_by_tag_exactly_where_an_adapter_changes_them(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    base = Layout.of(str(model)).manifest
    merged = Layout.of(str(model), str(adapter)).manifest
    other = write_adapter(tmp_path / "other", lora(Q_PROJ, 16, HIDDEN), lora_alpha=4)
    assert differing(merged, base) == differing(base, merged) == (f"{Q_PROJ}.weight",)
    assert differing(Layout.of(str(model), str(other)).manifest, merged) == (f"{Q_PROJ}.weight",)
    assert differing(Layout.of(str(model), str(adapter)).manifest, merged) == ()
    assert len({base.key, merged.key, Layout.of(str(model), str(other)).manifest.key}) == 3
    assert base.fingerprint == merged.fingerprint


def test_equal_weights_in_another_directory_have_equal_tags(model: Path, tmp_path: Path) -> None:
    copy = write_model(tmp_path / "copy", llama())
    assert Layout.of(str(copy)).manifest == Layout.of(str(model)).manifest


@pytest.mark.parametrize("name", list(llama()))
def test_one_retrained_tensor_is_reason_to_trust_none(model: Path, tmp_path: Path, name: str) -> None:
    tensors = llama()
    tensors[name] = tensors[name] + 1
    other = Layout.of(str(write_model(tmp_path / "other", tensors))).manifest
    assert name in differing(other, Layout.of(str(model)).manifest)


def test_a_matrix_that_samples_of_a_large_file_would_miss_is_met(tmp_path: Path) -> None:
    tensors = {f"w{number:02}.weight": torch.zeros(512, 512) for number in range(20)}
    first = Layout.of(str(write_model(tmp_path / "one", tensors))).manifest
    for number in range(20):
        second = write_model(tmp_path / f"{number}", tensors | {f"w{number:02}.weight": torch.ones(512, 512)})
        assert Layout.of(str(second)).manifest.model != first.model


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"transformers_version": "4.0", "_name_or_path": "elsewhere", "use_cache": False, "pad_token_id": 3}, True),
        ({"hidden_size": HIDDEN + 1}, False),
        ({"rms_norm_eps": 1e-6}, False),
        ({"rope_parameters": {"rope_theta": 1e4}}, False),
        ({"quantization_config": {"bits": 4}}, False),
        ({"vocab_size": 41}, False),
        ({"architectures": ["MistralForCausalLM"]}, False),
        ({"text_config": {"head_dim": 4}}, False),
        ({"text_config": {}}, False),
    ],
)
def test_the_fingerprint_is_that_of_shapes_and_numbers(
    model: Path, tmp_path: Path, config: dict[str, object], same: bool
) -> None:
    other = Layout.of(str(write_model(tmp_path / "other", llama(), **config)))
    assert (other.manifest.fingerprint == Layout.of(str(model)).manifest.fingerprint) == same


def test_the_fingerprint_takes_both_names_of_the_dtype_for_one(tmp_path: Path) -> None:
    old = Layout.of(str(write_model(tmp_path / "old", llama(), torch_dtype="bfloat16")))
    new = Layout.of(str(write_model(tmp_path / "new", llama(), dtype="bfloat16")))
    assert old.manifest.fingerprint == new.manifest.fingerprint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (lora("model.layers.9.mlp.up_proj"), "no tensor of that name"),
        (lora(Q_PROJ, 17, HIDDEN), "does not fit"),
        (lora(Q_PROJ, 16, HIDDEN + 1), "does not fit"),
        (dict(list(lora(Q_PROJ, 16, HIDDEN).items())[:1]), "one half"),
        (lora("codes", 4, 4), "quantised"),
        ({"base_model.model.extra.weight": torch.ones(2)}, "no LoRA matrix"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, torch.Tensor], says: str) -> None:
    model = write_model(tmp_path / "model", llama() | {"codes.weight": torch.zeros(4, 4, dtype=torch.int8)})
    adapter = write_adapter(tmp_path / "adapter", changes)
    with pytest.raises(CheckpointError, match=rf"{ADAPTER_WEIGHTS}: .*{says}"):
        Layout.of(str(model), str(adapter))


@pytest.mark.parametrize("missing", ["config.json", "model-0.safetensors", ADAPTER_WEIGHTS, ADAPTER_CONFIG])
def test_a_missing_source_is_refused(model: Path, adapter: Path, missing: str) -> None:
    ((adapter if "adapter" in missing else model) / missing).unlink()
    with pytest.raises(CheckpointError):
        Layout.of(str(model), str(adapter))


@pytest.mark.parametrize("changed", ["model-0.safetensors", ADAPTER_WEIGHTS, ADAPTER_CONFIG])
def test_a_source_that_changed_since_gives_no_image(model: Path, adapter: Path, changed: str) -> None:
    layout = Layout.of(str(model), str(adapter))
    os.utime((adapter if "adapter" in changed else model) / changed, ns=(1, 1))
    buffer = bytearray(layout.nbytes)
    with pytest.raises(CheckpointError, match="changed since"):
        layout.write_into(memoryview(buffer))
    with pytest.raises(CheckpointError, match="not a packed checkpoint"):
        PackedCheckpoint.from_buffer(memoryview(buffer))


def test_a_source_cut_since_gives_no_image_even_where_one_was_before(model: Path) -> None:
    layout = Layout.of(str(model))
    buffer = image_of(layout)
    os.truncate(model / "model-0.safetensors", 500)
    with pytest.raises(CheckpointError, match=r"model-0\.safetensors: ends inside of"):
        layout.write_into(memoryview(buffer))
    with pytest.raises(CheckpointError, match="not a packed checkpoint"):
        PackedCheckpoint.from_buffer(memoryview(buffer))


def test_a_buffer_that_is_too_small_or_read_only_is_refused(model: Path) -> None:
    layout = Layout.of(str(model))
    for buffer in (bytearray(layout.nbytes - 1), bytes(layout.nbytes)):
        with pytest.raises(ValueError, match=f"{layout.nbytes} bytes"):
            layout.write_into(memoryview(buffer))


@pytest.mark.parametrize("digests", [False, True])
def test_progress_counts_every_byte_once_and_reaches_the_end(model: Path, digests: bool) -> None:
    layout = Layout.of(str(model), chunk_bytes=CHUNK)
    seen: list[tuple[int, int]] = []
    layout.write_into(memoryview(bytearray(layout.nbytes)), lambda done, total: seen.append((done, total)), digests)
    bytes_copied = sum(tensor.nbytes for tensor in layout.manifest.tensors)
    assert seen == sorted(seen)
    assert seen[-1] == (bytes_copied + layout.manifest.data_bytes * digests,) * 2


DTYPES = [torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool, torch.complex64]
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(
    lambda name: name != "__metadata__"), st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=6))  # fmt: skip
def test_any_set_of_tensors_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    numbers = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(shape, generator=numbers) > 0 if dtype == torch.bool
               else torch.randint(0, 99, shape, generator=numbers).to(dtype))
        for name, (shape, dtype) in described.items()
    }  # fmt: skip
    image = image_of(Layout.of(str(write_model(tmp_path_factory.mktemp("any"), tensors)), chunk_bytes=CHUNK), True)
    packed = PackedCheckpoint.from_buffer(memoryview(image))
    packed.verify_chunks()
    assert_same(dict(packed.tensors()), tensors)
