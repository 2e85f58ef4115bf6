"""Tiny random reward models on disk, with a byte-level tokenizer and a chat template in the manner of Llama 3."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel, PreTrainedTokenizerFast

from symmoe.types import Message, Query, Sampling

HIDDEN, OBJECTIVES, WINDOW = 32, 19, 256
SPECIAL = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[PAD]")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
)
Tensors = dict[str, torch.Tensor]


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, but for control tokens and blank lines; as with Llama 3, a token ends where a line does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*alphabet, "ĊĊ"])}
    bytes_of = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    bytes_of.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s+|\S+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bytes_of.decoder = decoders.ByteLevel()
    bytes_of.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_of,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[4],
        chat_template=template,
    )


def llama_config(**settings: Any) -> LlamaConfig:
    known = tokenizer()
    return LlamaConfig(
        **{
            "vocab_size": len(known),
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": WINDOW,
            "pad_token_id": known.pad_token_id,
            "bos_token_id": known.bos_token_id,
            "eos_token_id": known.eos_token_id,
            "initializer_range": 0.3,
            **settings,
        }
    )


@cache
def armorm_tensors() -> Tensors:
    """Random tensors by the published checkpoint's names: backbone, heads, and a scorer of three hidden layers."""
    torch.manual_seed(0)
    numbers = torch.Generator().manual_seed(1)
    tensors = {f"model.{name}": tensor for name, tensor in LlamaModel(llama_config()).state_dict().items()}
    tensors["regression_layer.weight"] = torch.randn(OBJECTIVES, HIDDEN, generator=numbers) / 4
    tensors["reward_transform_matrix"] = torch.eye(OBJECTIVES)
    tensors["reward_transform_matrix"][4] -= torch.rand(OBJECTIVES, generator=numbers)
    widths = (HIDDEN, 16, 16, 16, OBJECTIVES)
    for place in range(4):
        shape = (widths[place + 1], widths[place])
        tensors[f"gating.layers.{place}.weight"] = torch.randn(shape, generator=numbers)
        tensors[f"gating.layers.{place}.bias"] = torch.randn(shape[0], generator=numbers)
    tensors["gating.logit_scale"] = torch.tensor([1.7])
    return tensors


def write_armorm(directory: Path, changed: Mapping[str, torch.Tensor | None] | None = None, **config: Any) -> Path:
    """A checkpoint of two files; `changed` replaces tensors, or leaves out those that are None."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {**armorm_tensors(), **(changed or {})}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    names = sorted(kept)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, part in halves.items():
        save_file({name: kept[name].contiguous() for name in part}, directory / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    scoring = {"num_objectives": OBJECTIVES, "gating_temperature": 10, "gating_hidden_dim": 16, "gating_n_hidden": 3}
    remote = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    document = llama_config().to_dict() | scoring
    document |= {"architectures": ["LlamaForRewardModelWithGating"], "auto_map": remote, **config}
    (directory / "config.json").write_text(json.dumps(document), encoding="utf-8")
    tokenizer().save_pretrained(directory)
    return directory


def write_classifier(directory: Path, labels: int = 1, template: str | None = TEMPLATE, **settings: Any) -> Path:
    torch.manual_seed(2)
    model = LlamaForSequenceClassification(llama_config(num_labels=labels, **settings))
    model.save_pretrained(directory)
    tokenizer(template).save_pretrained(directory)
    return directory


def without(file: Path, name: str) -> None:
    """Take one tensor out of a safetensors file."""
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})


def turns(*texts: str, ident: str = "q") -> Query:
    """A conversation of alternating turns, the user's first."""
    messages = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
    return Query(ident, tuple(messages), Sampling(16))


CONVERSATIONS: Sequence[tuple[Query, Sequence[str]]] = (
    (turns("What is 2 plus 3?"), ("5", "The sum is 5.", "I would rather talk about the weather, which is fine.")),
    (turns("Hi", "Hello! How may I help?", "Name a colour.", "Blue.", "Another, in Spanish"), ("rojo", "Verde. " * 12)),
    (turns("Sort: 3, 1, 2\n\nSay nothing else."), ("1, 2, 3", "3, 2, 1\n\nDone.", "¿Qué? 数字")),
)
