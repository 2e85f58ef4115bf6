"""The swappable parts of the pipeline. Each takes a batch and returns it in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from symmoe.types import (
    Answer,
    Call,
    Candidate,
    Delta,
    EngineStats,
    Explanation,
    Generation,
    Image,
    Load,
    Plan,
    Prompt,
    Query,
    Recruitment,
    Refusal,
    Reward,
    Skills,
    Verdict,
)


class Embedder(Protocol):
    """Turns texts into unit vectors; used by the tagger."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows."""
        ...

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens embedding these texts reads in all."""
        ...


class Tagger(Protocol):
    """Finds the skills that queries need; the first stage."""

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query, best first."""
        ...


class Recruiter(Protocol):
    """Chooses the experts of each query from its skills and the experts' records."""

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """Fill at least one and at most `k` slots of each query. Equal texts under one seed get equal experts."""
        ...

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """Why `recruit` chooses as it does."""
        ...


class Engine(Protocol):
    """Runs one expert at a time on one accelerator; driven by the loader and the executor."""

    @property
    def model(self) -> str | None:
        """The directory of the model whose engine is running, or None before the first start."""
        ...

    @property
    def started(self) -> int:
        """The number of the running engine's start; no two starts share one."""
        ...

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """For each query, why it could never be answered, or None. Called before anything is loaded.

        `model` is the directory of the checkpoint that would answer; None for the one at hand.
        """
        ...

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Start on a model directory, ending what ran before. Raises `EngineError`.

        `tags` identify the bytes of each tensor, so that later swaps write only what differs.
        """
        ...

    def wake(self, model: str) -> bool:
        """Switch to a sleeping engine that can serve a model of this shape; False if there is none."""
        ...

    def swap(self, image: Image) -> int:
        """Write an expert's weights, of the started shape, into the running engine; returns the bytes moved."""
        ...

    def rebind(self, key: str, model: str) -> bool:
        """Serve the weights called `key` if the engine still holds them; otherwise False, with nothing changed."""
        ...

    def adapt(self, adapter: str | None) -> bool:
        """Apply a LoRA adapter, or none, to what is generated from now on; False if adapters must be merged instead."""
        ...

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Set the weights that come next, soonest first, each as its key and the directory of its model."""
        ...

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Generate for every call, yielding each as soon as it is finished (in any order)."""
        ...

    def close(self) -> None:
        """Free the accelerator. Safe to call twice."""
        ...


class StreamingEngine(Engine, Protocol):
    """An engine to which calls can be added while it generates. Nothing may be swapped before all are finished."""

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Begin to generate for a query under an id of its own. Returns a refusal if that is impossible.

        `prompt` is the query's, if already made. Without `stream` all text may come in the last delta.
        """
        ...

    def step(self) -> list[Delta]:
        """Run one step of generation for all added calls, if any. Raises `EngineError`."""
        ...

    def abort(self, idents: Sequence[str]) -> None:
        """Abort these calls; unknown ids are ignored."""
        ...

    def stats(self) -> EngineStats | None:
        """What was counted since the last call of this method; None where nothing is counted."""
        ...


class SuspendableEngine(StreamingEngine, Protocol):
    """A streaming engine that can sleep: it frees memory, keeps its weights, and wakes quickly."""

    @property
    def pid(self) -> int | None:
        """The id of its process; None while it has none."""
        ...

    def suspend(self) -> int:
        """Free all memory but that of the weights, cached prompts included; returns the bytes of memory that it keeps.

        Raises `EngineError`, also while it is generating.
        """
        ...

    def resume(self) -> None:
        """Restore the state before `suspend`, except for cached prompts. Raises `EngineError`."""
        ...


class Loader(Protocol):
    """Makes an expert ready by the cheapest lane; called by the executor, once per step."""

    def expect(self, experts: Sequence[str]) -> None:
        """Set the experts that come next, soonest first: the first may be fetched ahead, others kept."""
        ...

    def ready(self, expert: str) -> Load:
        """Make `expert` the one that the engine serves. Returns how."""
        ...

    def model(self, expert: str) -> str:
        """The directory of an expert's model."""
        ...


class Executor(Protocol):
    """Runs a plan; the same plan in one process or on many machines."""

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """For each query, why an expert could never answer it, or None."""
        ...

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step, yielding each load when it is done and each call's candidates when they are finished."""
        ...


class Standing(NamedTuple):
    """A worker's ready expert, or "", the experts that it had ready before, and its machine."""

    resident: str
    before: frozenset[str]
    machine: str


class SpreadExecutor(Executor, Protocol):
    """An executor of several workers."""

    def standing(self) -> Sequence[Standing]:
        """The state of each worker."""
        ...


class Scorer(Protocol):
    """Weighs the candidates of each query against each other."""

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order."""
        ...


class RewardModel(Protocol):
    """Judges answers by reading them."""

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None."""
        ...


class Aggregator(Protocol):
    """Makes one answer of a query's weighed candidates."""

    def aggregate(self, query: Query, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Answer:
        """The answer to a query."""
        ...


class Store(Protocol):
    """Data that outlives a process. Keys are scoped by the caller; values are JSON objects."""

    def put(self, table: str, rows: Mapping[str, dict[str, Any]]) -> None:
        """Write rows; a row written twice keeps its first value."""
        ...

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Every row of a table."""
        ...

    def remove(self, table: str, keys: Iterable[str]) -> None:
        """Remove rows of a table, if present."""
        ...

    def drop(self, tables: Iterable[str]) -> None:
        """Remove tables."""
        ...
