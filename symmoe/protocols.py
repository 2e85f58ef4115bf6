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
    """Turns texts into unit vectors; asked by the tagger."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows."""
        ...

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts together are read when they are embedded."""
        ...


class Tagger(Protocol):
    """Names the skills that queries need; asked first."""

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query, best first."""
        ...


class Recruiter(Protocol):
    """Chooses the experts of each query from its skills and the experts' records."""

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """Fill at least one and at most `k` slots of each query. Equal texts under one seed are given equal experts."""
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
        """Which start the running engine stems from: no two starts of engines have the same number."""
        ...

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Why each query could never be generated for, told before anything is loaded; None where it could.

        `model` is the directory of the checkpoint that would answer; left open, of the one that is at hand.
        """
        ...

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Start on a model directory, ending what ran before. Raises `EngineError`.

        `tags` name the bytes of each of its tensors, so that later swaps write only what differs.
        """
        ...

    def wake(self, model: str) -> bool:
        """Go over to an engine that sleeps and can serve a model of this shape; False if there is none."""
        ...

    def swap(self, image: Image) -> int:
        """Put an expert's weights, of the shape that was started, into the running engine; bytes moved."""
        ...

    def rebind(self, key: str, model: str) -> bool:
        """Serve the weights called `key` if the engine still holds them; False, and nothing changed, if not."""
        ...

    def adapt(self, adapter: str | None) -> bool:
        """Apply a LoRA adapter, or none, to what is generated from now on; False if adapters must be merged instead."""
        ...

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Take note of the weights that come next, soonest first: of each the key and the directory of its model."""
        ...

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Generate for every call, giving each as soon as it is finished (in any order)."""
        ...

    def close(self) -> None:
        """Free the accelerator. Safe to call twice."""
        ...


class StreamingEngine(Engine, Protocol):
    """An engine to which calls can be added while it generates. Nothing may be swapped before all are finished."""

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Begin to generate for a query under a name of its own; a refusal where that cannot be done.

        `prompt` is the query's, where it was made before. Without `stream` all text may come in the last delta.
        """
        ...

    def step(self) -> list[Delta]:
        """Generate a little for every call that was added; nothing where there is none. Raises `EngineError`."""
        ...

    def abort(self, idents: Sequence[str]) -> None:
        """Stop generating for these; names that are not known are ignored."""
        ...

    def stats(self) -> EngineStats | None:
        """What was counted since this was last asked; None where nothing is."""
        ...


class SuspendableEngine(StreamingEngine, Protocol):
    """A streaming engine that can sleep: it gives back memory, keeps its weights, and is quickly there again."""

    @property
    def pid(self) -> int | None:
        """The process that it runs in; None while it has none."""
        ...

    def suspend(self) -> int:
        """Give back what is not weights, and forget cached prompts; the bytes of memory that it keeps.

        Raises `EngineError`, also while it is generating.
        """
        ...

    def resume(self) -> None:
        """Be as before `suspend`, but for the cached prompts. Raises `EngineError`."""
        ...


class Loader(Protocol):
    """Makes an expert ready by the cheapest lane; asked by the executor, once per step."""

    def expect(self, experts: Sequence[str]) -> None:
        """Take note of the experts that come after this, soonest first: the first may be fetched ahead, others kept."""
        ...

    def ready(self, expert: str) -> Load:
        """Make `expert` the one that the engine serves, and say how."""
        ...

    def model(self, expert: str) -> str:
        """The directory of an expert's model."""
        ...


class Executor(Protocol):
    """Runs a plan; the same plan in process or on many machines."""

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """Why an expert could never answer each query; None where it could."""
        ...

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step, giving each load when it is done and each call's candidates when they are finished."""
        ...


class Standing(NamedTuple):
    """Of a worker the expert that it has ready, or "", those that it had ready before, and its machine."""

    resident: str
    before: frozenset[str]
    machine: str


class SpreadExecutor(Executor, Protocol):
    """An executor of several workers."""

    def standing(self) -> Sequence[Standing]:
        """How each worker stands."""
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
        """The one answer."""
        ...


class Store(Protocol):
    """What must outlive a process. Keys are scoped by the caller; values are JSON objects."""

    def put(self, table: str, rows: Mapping[str, dict[str, Any]]) -> None:
        """Write rows; a row written twice keeps its first value."""
        ...

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Every row of a table."""
        ...

    def remove(self, table: str, keys: Iterable[str]) -> None:
        """Forget rows of a table, where they are there."""
        ...

    def drop(self, tables: Iterable[str]) -> None:
        """Forget tables."""
        ...
