"""The deployment of a dedicated expert: an `LLMServer` of `ray.serve.llm` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from symmoe.build import Assembly, expert_fingerprint
from symmoe.config import DedicatedConfig, ExpertConfig, Pool, cache_dir
from symmoe.engines.arguments import VLLM_ENVIRONMENT, vllm_arguments
from symmoe.engines.chat import ChatTokenizer
from symmoe.engines.grammars import Grammars
from symmoe.engines.stats import recorded
from symmoe.engines.vllm import longest
from symmoe.errors import EngineError, JobError
from symmoe.limits import ENGINE_GRAMMARS_MIB
from symmoe.loading.merge import write_merged
from symmoe.planning.turns import Turns
from symmoe.types import EngineStats

from .dedicated_expert import DedicatedExpert, Places
from .events import EngineState
from .expert import replica_name, resident
from .prompts import Prompts
from .settings import Settings

YIELDING = 10
"""By how much an engine on CPUs, which takes every core, stands back for routing."""
_WANTED = ("ray.serve.llm", "pandas", "jsonref", "pyarrow", "hf_transfer")


class DedicatedReplica(DedicatedExpert):
    """Serves the only expert of a pool. Made of picklable arguments; the engine runs once the constructor returns."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it, and asks nothing of the replica before
        self, pool: Pool, settings: Settings, accelerators: int
    ) -> None:
        (expert,) = pool.experts
        assembly = Assembly(pool)
        model = checkpoint(assembly, expert)
        _environment(expert.dedicated or DedicatedConfig(), settings, accelerators)
        tokenizer = _tokenizer(pool, model)
        server = _server(pool, expert, model, tokenizer.window, accelerators)
        await server.start()
        self._recorder = recorded(server.engine._engine_client)
        self._counted: EngineStats | None = None
        from ray.serve.llm.openai_api_models import CompletionRequest

        turns = Turns(pool.engine.max_num_seqs, settings.most_waiting, settings.patience, settings.amortise)
        prompts = Prompts(lambda _: tokenizer, Grammars())
        places, reader = Places(expert.name, turns), assembly.reader(expert.name)
        super().__init__(expert.name, server, CompletionRequest, prompts, tokenizer.window, places, reader)

    async def state(self) -> EngineState:
        """The engine's state and counts, and the memory that it takes."""
        state, taken = await super().state(), self._recorder.taken()
        self._counted = taken if self._counted is None else self._counted.then(taken)
        memory = await asyncio.to_thread(resident)
        return replace(state, memory=memory, name=replica_name(), stats={str(state.expert): self._counted})


def checkpoint(assembly: Assembly, expert: ExpertConfig) -> str:
    """The directory with an expert's weights, its adapter merged in: made once for each state of its files."""
    weights = assembly.weights(expert.name)
    if not weights.adapter:
        return weights.model
    merged = cache_dir() / "merged" / f"{expert.name}-{expert_fingerprint(assembly.pool, expert.name)}"
    if not merged.is_dir():
        merged.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=merged.parent) as folder:
            written = write_merged(weights.model, weights.adapter, Path(folder) / expert.name)
            with suppress(OSError):  # another replica was faster
                written.rename(merged)
    return str(merged)


def engine_arguments(pool: Pool, window: int, gpu: bool) -> dict[str, Any]:
    """The pool's engine settings as vLLM's arguments, for a model with a window of so many tokens."""
    return {
        **vllm_arguments(pool.engine, window, gpu),
        "generation_config": "vllm",  # else what a checkpoint suggests would count where a request leaves it open
        "structured_outputs_config": {"backend": "xgrammar"},
        "disable_log_stats": False,
        "trust_remote_code": any(expert.trust_remote_code for expert in pool.experts),
    }


def bundles(config: DedicatedConfig, accelerators: int) -> list[dict[str, float]]:
    """The resources of one replica, in parts that may be on different machines."""
    cpus = 1.0 if config.cpus is None else config.cpus
    if not accelerators:
        return [{"CPU": cpus}]
    return [{"CPU": cpus, "GPU": 1.0}, *({"GPU": 1.0} for _ in range(accelerators - 1))]


def check_importable() -> None:
    """Raise `JobError` if packages that `ray.serve.llm` needs are missing. Imports nothing, which would be slow."""
    from importlib.util import find_spec

    missing = [name for name in _WANTED if find_spec(name) is None]
    if missing:
        message = f"dedicated experts run on ray.serve.llm, which needs {', '.join(missing)}"
        raise JobError(message, hint="pip install 'symmoe[dedicated]'")


def _server(pool: Pool, expert: ExpertConfig, model: str, window: int, accelerators: int) -> Any:
    try:
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import LLMServer
    except ImportError as error:
        what = str(error).splitlines()[0]
        raise EngineError(f"ray.serve.llm cannot be used: {what}", hint="pip install 'symmoe[dedicated]'") from error
    config = LLMConfig(
        model_loading_config={"model_id": expert.name, "model_source": model},
        engine_kwargs=engine_arguments(pool, window, accelerators > 0),
        placement_group_config={"bundles": bundles(expert.dedicated or DedicatedConfig(), accelerators)},
        experimental_configs={"stream_batching_interval_ms": 0},  # pieces are gathered here, the first one is not
        log_engine_metrics=False,
    )

    class _Server(LLMServer):  # type: ignore[misc]  # no types are known of it
        async def _start_engine(self) -> None:
            """Without the report of Ray's own, for which it leaves an actor of 400 MB on the cluster for ever."""
            await self.engine.start()

    return _Server.sync_init(config)


def _tokenizer(pool: Pool, model: str) -> ChatTokenizer:
    return ChatTokenizer(model, longest(model, pool.engine.max_model_len))


def _environment(config: DedicatedConfig, settings: Settings, accelerators: int) -> None:
    """What vLLM and what it starts read from the environment; the user's own settings win, but for threads."""
    variables = {
        **VLLM_ENVIRONMENT,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(max(1, int(settings.stall))),
        "VLLM_XGRAMMAR_CACHE_MB": str(ENGINE_GRAMMARS_MIB),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    if not accelerators:
        cores = os.cpu_count() or 1 if config.cpus is None else max(1, int(config.cpus))
        os.environ["OMP_NUM_THREADS"] = str(cores)  # Ray has set it to what is claimed, which may be a token claim
        os.nice(YIELDING)
