"""Prepares a request before it waits for an engine: tokens that fit, and a schema that an engine can handle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.engines.chat import ChatTokenizer
from symmoe.engines.grammars import Grammars
from symmoe.engines.vllm import longest, unknown_tokens
from symmoe.errors import CapacityError, SymmoeError
from symmoe.limits import PROMPT_CHARACTERS_PER_TOKEN, SCHEMA_PATIENCE
from symmoe.types import Refusal, Sampling

from .events import Asked, TurnedAway, TurnedAwayError, unready


class Prompts:
    """Prepares requests for generation, outside the threads of the engine and the event loop.

    `tokenizer_of` finds the tokenizer of an expert; it is called in a thread and may be slow.
    """

    def __init__(self, tokenizer_of: Callable[[Asked], ChatTokenizer], schemas: Grammars) -> None:
        self._tokenizer_of, self._schemas = tokenizer_of, schemas
        self._brief = ThreadPoolExecutor(1, "prompts")
        self._long = ThreadPoolExecutor(1, "long-prompts")  # which hold up no brief ones

    async def ready(self, asked: Asked) -> Asked:
        """The request with its tokens. Raises `TurnedAwayError` for one that no engine should see."""
        loop = asyncio.get_running_loop()
        characters = sum(len(message.content) for message in asked.query.messages)
        try:
            tokenizer = await loop.run_in_executor(self._brief, self._tokenizer_of, asked)
            thread = self._long if characters > tokenizer.window * PROMPT_CHARACTERS_PER_TOKEN else self._brief
            prompt = await loop.run_in_executor(thread, tokenizer.prompt, asked.query)
        except SymmoeError as error:
            raise TurnedAwayError(unready(asked.expert, error)) from error
        if isinstance(prompt, Refusal):
            raise TurnedAwayError(TurnedAway(400, prompt.code, prompt.message, spent=prompt.tokens))
        unknown = unknown_tokens(asked.query, tokenizer.model)
        if unknown is not None:
            raise TurnedAwayError(TurnedAway(400, unknown.code, unknown.message))
        if asked.query.sampling.schema is not None:
            await self._check(asked.query.sampling, tokenizer.model, asked.key)
        return replace(asked, prompt=prompt)

    def close(self) -> None:
        """End the compiler of schemas, if one was started."""
        self._schemas.close()

    async def _check(self, sampling: Sampling, model: str, key: str) -> None:
        try:
            future = self._schemas.verdict(sampling.schema or "", model, key, sampling.form)
            verdict = await asyncio.wait_for(asyncio.wrap_future(future), SCHEMA_PATIENCE)
        except CapacityError as error:
            raise TurnedAwayError(TurnedAway(429, "overloaded", str(error), 5.0)) from error
        except SymmoeError as error:
            raise TurnedAwayError(TurnedAway(503, "expert_unavailable", str(error))) from error
        except TimeoutError as error:
            message = f"response_format: the schema was not compiled within {SCHEMA_PATIENCE:.0f} s"
            raise TurnedAwayError(TurnedAway(503, "overloaded", message, 5.0)) from error
        if verdict.fault is not None and verdict.sure:
            raise TurnedAwayError(TurnedAway(400, "invalid_schema", f"response_format: the schema: {verdict.fault}"))
        if verdict.fault is not None:
            message = f"response_format: the schema could not be tried: {verdict.fault}"
            raise TurnedAwayError(TurnedAway(503, "overloaded", message, 5.0))


class PoolTokenizers:
    """The tokenizers of a pool's experts and of newcomers, by their checkpoints."""

    def __init__(self, pool: Pool) -> None:
        self._assembly = Assembly(pool)
        self._tokenizers: dict[str, ChatTokenizer] = {}

    def __call__(self, asked: Asked) -> ChatTokenizer:
        """The tokenizer of an expert. Raises `SymmoeError`."""
        if asked.newcomer is not None and asked.newcomer not in self._assembly.pool.experts:
            self._assembly.learn(asked.newcomer)
        model = self._assembly.weights(asked.expert).model
        if model not in self._tokenizers:
            most = self._assembly.pool.engine.max_model_len
            self._tokenizers[model] = ChatTokenizer(model, longest(model, most))
        return self._tokenizers[model]


def prompts_of(pool: Pool) -> Prompts | None:
    """The `Prompts` of the experts that share one engine of a pool; None without tokens, as for an echo."""
    return Prompts(PoolTokenizers(pool), Grammars()) if pool.engine.runs_models else None
