"""The worker process: it builds an engine and a loader of its own from the pool, and runs steps on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.types import Call, Generation, Joint, Load

from .staging import ALONE, on_cluster, staged_load

Build = Callable[[Pool], Assembly]


class Worker:
    """One engine in a process of its own, made of picklable arguments.

    Nothing is read before the first step, so that what is wrong with a pool's files raises an error in that step.
    """

    def __init__(self, pool: Pool, build: Build) -> None:
        self._pool = pool
        self._build = build
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or every worker binds itself to the same cores

    @cached_property
    def _assembly(self) -> Assembly:
        return on_cluster(self._build(self._pool))

    def begun(self) -> None:
        """Returns once this process runs, which means that a machine had room for it."""

    def ready(self, expert: str, ahead: Sequence[str], joint: Joint | None = None) -> Load:
        """Make an expert ready, in a `joint` step together with other workers. `ahead` come after it, soonest first."""
        load = staged_load(self._assembly, expert, joint or ALONE)
        self._assembly.loader.expect(ahead)
        return load

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[int, Generation]]:
        """Generate for calls of the expert that is ready, yielding each with its index as soon as it is finished."""
        places = {call: place for place, call in enumerate(calls)}
        for call, generation in self._assembly.engine.generate(calls):
            yield places[call], self._assembly.read(call, generation)
