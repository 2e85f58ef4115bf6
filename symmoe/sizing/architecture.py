"""A model's shape, as its config.json gives it, and what follows: parameters, bytes, keys and values of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.sizing.window import window_of

BF16 = 2
"""Bytes of a number in bfloat16, the precision in which the engine computes and keeps keys and values."""
_QKV_BIAS = frozenset({"qwen2"})
_QK_NORM = frozenset({"qwen3", "gemma3", "gemma3_text"})
_FOUR_NORMS = frozenset({"gemma2", "gemma3", "gemma3_text"})
_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
_BITS = {"fp8": 8.0, "fbgemm_fp8": 8.0}
_GROUP = 128


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder. `kind` is its `model_type`, `window` the tokens it was made for, `bits` those of a weight.

    `grouped` is how many weights of a matrix share a scale of 16 bits; 0 where there are no scales.
    """

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    window: int
    tied: bool
    qkv_bias: bool
    bits: float = 16.0
    grouped: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Architecture:
        """Read a config.json. `CheckpointError`, which names `where`, if the model is of a kind not known here."""
        text: Mapping[str, Any] = config.get("text_config") or config
        kind = str(text.get("model_type", config.get("model_type", "")))
        strange = [
            key for key in ("kv_lora_rank", "num_experts", "num_local_experts", "n_routed_experts") if text.get(key)
        ]
        if strange:
            raise CheckpointError(f"{where}: {strange[0]}: only dense models with plain attention can be sized")
        try:
            heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
            bits, grouped = _quantisation(config.get("quantization_config") or {}, where)
            return cls(
                kind=kind,
                layers=int(text.get("num_hidden_layers") or text["num_layers"]),
                hidden=hidden,
                heads=heads,
                kv_heads=int(text.get("num_key_value_heads") or heads),
                head_dim=int(text.get("head_dim") or hidden // heads),
                intermediate=int(text["intermediate_size"]),
                vocab=int(text["vocab_size"]),
                window=_window(config),
                tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind in _TIED))),
                qkv_bias=bool(text.get("attention_bias", kind in _QKV_BIAS)),
                bits=bits,
                grouped=grouped,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: its config.json has no usable {error}") from error

    @property
    def linear_parameters(self) -> int:
        """Parameters of the matrices within the layers: those that a quantisation makes smaller."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All parameters, as the checkpoint counts them."""
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        norms = self.hidden * (4 if self.kind in _FOUR_NORMS else 2)
        norms += 2 * self.head_dim if self.kind in _QK_NORM else 0
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + self.layers * (bias + norms) + self.hidden + embeddings

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        linear = self.linear_parameters
        scales = BF16 * linear // self.grouped if self.grouped else 0
        return round(linear * self.bits / 8) + scales + BF16 * (self.parameters - linear)

    def kv_bytes(self, split: int = 1) -> int:
        """Bytes of keys and values that one token takes on each of `split` accelerators that share the heads.

        Where there are more accelerators than heads of keys and values, heads are kept more than once.
        """
        return 2 * self.layers * max(1, self.kv_heads // split) * self.head_dim * BF16

    def splits(self, most: int) -> tuple[int, ...]:
        """Over how many accelerators, `most` at most, the heads can be divided evenly; vLLM accepts no others."""
        return tuple(
            split
            for split in range(1, most + 1)
            if self.heads % split == 0 and (self.kv_heads % split == 0 or split % self.kv_heads == 0)
        )

    def quantised(self, bits: float) -> Architecture:
        """The same model with its matrices quantised."""
        return replace(self, bits=bits, grouped=_GROUP)


def _window(config: Mapping[str, Any]) -> int:
    window = window_of(config)
    if window is None:
        raise KeyError("max_position_embeddings")
    return window


def _quantisation(config: Mapping[str, Any], where: str) -> tuple[float, int]:
    """Bits of a linear weight, and how many of them share a scale."""
    if not config:
        return 16.0, 0
    method = str(config.get("quant_method", ""))
    bits = _BITS.get(method) or config.get("bits") or config.get("w_bit")
    if bits is None:
        raise CheckpointError(f"{where}: quantisation {method!r} is not known here, so its size is not either")
    return float(bits), int(config.get("group_size") or config.get("q_group_size") or _GROUP)
