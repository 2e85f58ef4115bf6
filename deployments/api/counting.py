"""Counts the tokens of a conversation."""

from __future__ import annotations

from threading import Lock

from symmoe.config import Pool
from symmoe.errors import SymmoeError
from symmoe.types import Query

from ..errors import ApiError
from ..events import Asked
from ..prompts import PoolTokenizers


class Counting:
    """Counts with the experts' own tokenizers, each loaded on first use; an echo engine's tokens are words."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._lock = pool, Lock()
        self._tokenizers: PoolTokenizers | None = None

    def tokens(self, query: Query, expert: str | None) -> int:
        """The tokens of a query for an expert, None for the pool's first that runs here. Blocks. Raises `ApiError`."""
        if self._pool.engine.kind == "echo":
            return sum(len(message.content.split()) for message in query.messages)
        local = [each.name for each in self._pool.experts if each.remote is None]
        name = expert or next(iter(local), None)
        if name is None or (name in self._pool.names and name not in local):
            raise ApiError(400, "invalid_value", "a remote expert's tokens cannot be counted here", "model")
        try:
            with self._lock:
                self._tokenizers = self._tokenizers or PoolTokenizers(self._pool)
                tokenizer = self._tokenizers(Asked("", name, query, "", 0.0))
            return len(tokenizer.encode(query))
        except SymmoeError as error:
            raise ApiError(503, "expert_unavailable", f"expert {name!r}: {error}", retry_after=30) from error
        except Exception as error:  # a chat template raises what it likes
            raise ApiError(400, "invalid_messages", f"the expert's chat template: {type(error).__name__}") from error
