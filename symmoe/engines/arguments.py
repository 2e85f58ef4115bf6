"""The arguments and the environment that every vLLM engine is started with."""

from __future__ import annotations

import json
from typing import Any, Protocol

from symmoe.types import Sampling

_GIB = 1 << 30
SAME_TO_VLLM = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "ignore_eos",
)
"""What of `Sampling` has vLLM's own name and meaning, and is no bound of ours."""
VLLM_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # weights were resolved before: the engine itself fetches nothing
}
"""What every vLLM engine finds in its environment."""
_FORMS = {"json": "json", "regex": "regex", "ebnf": "grammar"}


def structured_outputs(sampling: Sampling) -> dict[str, str]:
    """The form that a text must follow, under vLLM's name for it."""
    return {_FORMS[sampling.form]: sampling.schema} if sampling.schema else {}


def format_fields(sampling: Sampling) -> dict[str, Any]:
    """The form that a text must follow as request fields: OpenAI's for a JSON schema, vLLM's own for other forms."""
    if not sampling.schema:
        return {}
    if sampling.form != "json":
        return {"structured_outputs": structured_outputs(sampling)}
    form = {"name": "answer", "schema": json.loads(sampling.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


class EngineSize(Protocol):
    """How large an engine is made; see `EngineConfig`."""

    @property
    def max_num_seqs(self) -> int:
        """The most requests that run at once."""
        ...

    @property
    def tensor_parallel_size(self) -> int:
        """Accelerators that one engine takes."""
        ...

    @property
    def kv_cache_gib(self) -> float:
        """GiB for keys and values, on CPUs."""
        ...

    @property
    def gpu_memory_utilization(self) -> float:
        """The share of an accelerator's memory that it takes."""
        ...


def vllm_arguments(size: EngineSize, window: int, gpu: bool) -> dict[str, Any]:
    """vLLM's arguments for a model with a window of so many tokens."""
    same: dict[str, Any] = {
        "dtype": "bfloat16",
        "load_format": "safetensors",
        "max_model_len": window,
        "max_num_seqs": size.max_num_seqs,
        "tensor_parallel_size": size.tensor_parallel_size,
    }
    if gpu:
        return {**same, "gpu_memory_utilization": size.gpu_memory_utilization}
    # Compiling costs minutes and gains little at this size. A prompt cut into chunks breaks seeded sampling on CPU
    # (vLLM 0.29: "CPU Generator does not use offset"), so prompts are prefilled whole
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, window)}
    return {**same, **whole, "enforce_eager": True, "kv_cache_memory_bytes": int(size.kv_cache_gib * _GIB)}
