from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.loading.packed.order import FUSIONS, in_order

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
