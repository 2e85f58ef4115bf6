"""A model's shape from its config.json, and what follows: parameters, bytes, and the KV cache of a token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from symmoe.buckets import is_bucket, read_object
from symmoe.config import ExpertConfig, Pool
from symmoe.errors import CheckpointError
from symmoe.yaml_text import load_yaml

_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
    *("max_seq_length", "seq_len"),
)
_NOT_LONGER = frozenset({"default", "mrope", "su", "longrope", "llama3"})
"""Ways of rotating positions whose models state the length that they reach, not the one that is stretched."""
BF16 = 2
"""Bytes of a number in bfloat16, the precision in which the engine computes and keeps keys and values."""
_QKV_BIAS = frozenset({"qwen2"})
_QK_NORM = frozenset({"qwen3", "gemma3", "gemma3_text"})
_FOUR_NORMS = frozenset({"gemma2", "gemma3", "gemma3_text"})
_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
_BITS = {"fp8": 8.0, "fbgemm_fp8": 8.0}
_GROUP = 128
_ESSENTIAL = ("rope_theta", "rope_scaling", "rms_norm_eps", "max_position_embeddings")


def window_of(config: Mapping[str, Any]) -> int | None:
    """Tokens of a prompt and its answer together; None if the config states no length.

    It is `model_max_length`, or else the least of the stated lengths, times the factor by which rotary positions are
    stretched: as in vLLM 0.29, which refuses to start a model for more.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    stated = [int(text[key]) for key in _LENGTHS if text.get(key)]
    length, factor = int(text.get("model_max_length") or min(stated, default=0)), 1.0
    if not length:
        return None
    if "gemma3" in str(text.get("model_type")):  # states what it reaches
        return length
    for rotation in _rotations(text):
        kind = str(rotation.get("rope_type") or rotation.get("type") or "default")
        if kind not in _NOT_LONGER:
            factor = float(rotation.get("factor") or 1.0)
        if kind == "yarn":
            length = int(rotation.get("original_max_position_embeddings") or length)
    return int(length * factor)


def _rotations(text: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """How positions are rotated: under either name, once for the whole model or for each kind of layer."""
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(scaling, Mapping):
        return ()
    nested = [each for each in scaling.values() if isinstance(each, Mapping)]
    return nested or (scaling,)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder. `kind` is its `model_type`, `window` its length in tokens, `bits` those of a weight.

    `grouped` is how many weights of a matrix share a 16-bit scale; 0 without scales.
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
        """Read a config.json. Raises `CheckpointError`, naming `where`, for an unknown kind of model."""
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
        """Parameters of the matrices within the layers, which quantisation makes smaller."""
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
        """Bytes of KV cache that one token takes on each of `split` accelerators that share the heads.

        With more accelerators than KV heads, heads are stored more than once.
        """
        return 2 * self.layers * max(1, self.kv_heads // split) * self.head_dim * BF16

    def splits(self, most: int) -> tuple[int, ...]:
        """The numbers of accelerators, up to `most`, that divide the heads evenly; vLLM accepts no others."""
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


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """The configs that are shipped, by the model's source."""
    text = (files("symmoe.sizing") / "known.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = load_yaml(text)
    return loaded


def config_of(pool: Pool, expert: ExpertConfig) -> dict[str, Any]:
    """An expert's config; from a bucket only this file is read.

    Nothing else is downloaded: `CheckpointError` for a hub model that the table does not hold.
    """
    if expert.model in known_configs():
        return known_configs()[expert.model]
    if is_bucket(expert.model):
        return _config(read_object(f"{expert.model}/config.json"), f"{expert.name}: {expert.model}/config.json")
    if not expert.model.startswith(("./", "../", "/", "~")):
        raise CheckpointError(
            f"{expert.name}: the size of {expert.model} is not known without downloading it",
            hint="download it and name its directory in the pool file, or say its size with a config.json of its own",
        )
    file = pool.path(expert.model) / "config.json"
    try:
        return _config(file.read_bytes(), f"{expert.name}: {file}")
    except OSError as error:
        raise CheckpointError(f"{expert.name}: {file} cannot be read ({error})") from error


def _config(raw: bytes, what: str) -> dict[str, Any]:
    try:
        loaded = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{what} cannot be read ({error})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{what} is no JSON object")
    return loaded


def architectures(pool: Pool) -> dict[str, Architecture]:
    """The shape of each expert's model, by the expert's name; remote experts are left out."""
    local_experts = [expert for expert in pool.experts if expert.remote is None]
    return {expert.name: Architecture.of(config_of(pool, expert), expert.name) for expert in local_experts}


def shape_groups(pool: Pool) -> tuple[tuple[str, ...], ...]:
    """Groups of experts that can share one engine: within a group weights are swapped, between groups it is rebuilt.

    Differences of configs beyond shapes, positions and norms are not considered, and may divide a group further.
    """
    groups: dict[str, list[str]] = {}
    for expert in pool.experts:
        if expert.remote is not None:
            continue
        config = config_of(pool, expert)
        numerics = {key: str(config.get(key)) for key in _ESSENTIAL}
        key = f"{Architecture.of(config, expert.name)} {numerics}"
        groups.setdefault(key, []).append(expert.name)
    return tuple(tuple(group) for group in groups.values())
