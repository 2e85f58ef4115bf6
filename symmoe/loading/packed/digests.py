"""Digests that tell weights and architectures apart without reading gigabytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.loading.headers import StoredTensor
from symmoe.loading.sources import sampled_sha256

_SPOTS, _SPOT_BYTES = 4, 4096
_QUANTISATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
COSMETIC = frozenset(
    # where it comes from
    "transformers_version use_cache "
    # training only
    "initializer_range initializer_factor attention_dropout hidden_dropout attention_probs_dropout_prob "
    "hidden_dropout_prob resid_pdrop embd_pdrop attn_pdrop classifier_dropout summary_first_dropout "
    "router_aux_loss_coef output_router_logits gradient_checkpointing "
    # what transformers returns, and labels of tasks that are not generation
    "output_attentions output_hidden_states return_dict id2label label2id task_specific_params finetuning_task "
    "problem_type chunk_size_feed_forward "
    # token ids that tokenizers bring themselves; eos_token_id stays, since an engine stops by it
    "bos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id".split()
)
"""Keys of config.json that change neither shapes nor numbers; keys that begin with `_` are cosmetic too."""


def architecture_fingerprint(model: Path) -> str:
    """A digest of everything in a model's config that its shapes or numbers can depend on, quantisation included.

    Unknown keys count, so that models are rather told apart than confused. Raises `CheckpointError` without a config.
    """
    parts = {"config": _essential(read_json(model / "config.json"))}
    for name in _QUANTISATION_FILES:
        if (model / name).exists():
            parts[name] = read_json(model / name)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_digest(tensors: Iterable[StoredTensor]) -> str:
    """A digest of weight files: samples of each file, and of each tensor its description and four samples.

    A change to any one matrix, however small its part of the file, is detected unless it spares all four samples;
    tensors of 16 KiB or less are read whole. Raises `CheckpointError` if a file cannot be read.
    """
    digest = hashlib.sha256()
    ordered = sorted(tensors, key=lambda tensor: (tensor.file, tensor.offset, tensor.name))
    for file, group in groupby(ordered, key=lambda tensor: tensor.file):
        try:
            digest.update(sampled_sha256(file).encode())
            with file.open("rb", buffering=0) as stream:
                for tensor in group:
                    digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
                    _add_spots(digest, stream.fileno(), tensor)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def tensor_tag(*parts: str) -> str:
    """A short digest of everything that determines a tensor's bytes."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def chunk_digests(data: memoryview, chunk_bytes: int, step: Callable[[int], None] = lambda done: None) -> list[str]:
    """The sha256 of each chunk of the data, in order, on all cores: hashing lets other threads run.

    `step` is told the bytes of each chunk that is done. This is no generator: one that is left unfinished would wait
    for its threads wherever garbage is collected, even where a thread is just being started.
    """
    digests = []
    chunks = [data[at : at + chunk_bytes] for at in range(0, data.nbytes, chunk_bytes)]
    with ThreadPoolExecutor(cores()) as threads:
        for chunk, digest in zip(
            chunks, threads.map(lambda chunk: hashlib.sha256(chunk).hexdigest(), chunks), strict=True
        ):
            digests.append(digest)
            step(chunk.nbytes)
    return digests


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _add_spots(digest: Any, descriptor: int, tensor: StoredTensor) -> None:
    if tensor.nbytes <= _SPOTS * _SPOT_BYTES:
        digest.update(os.pread(descriptor, tensor.nbytes, tensor.offset))
        return
    for spot in range(_SPOTS):
        at = (tensor.nbytes - _SPOT_BYTES) * spot // (_SPOTS - 1)
        digest.update(os.pread(descriptor, _SPOT_BYTES, tensor.offset + at))


def _essential(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    essential = {
        key: _essential(value) for key, value in config.items() if key not in COSMETIC and not key.startswith("_")
    }
    if "torch_dtype" in essential:  # the older name of the same key
        essential.setdefault("dtype", essential.pop("torch_dtype"))
    return essential
