"""What every vLLM engine of ours is started with, whoever starts it."""

from __future__ import annotations

from typing import Any, Protocol

_GIB = 1 << 30


class EngineSize(Protocol):
    """How large an engine is made; see `EngineConfig`."""

    @property
    def max_num_seqs(self) -> int:
        """Requests that run at once, at most."""
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
