"""A reward replica: the pool's reward model in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from symmoe.config import Pool
from symmoe.protocols import Scorer
from symmoe.types import Assignment, Candidate, Message, Query, Recruitment, Sampling, Verdict

from .scoring import Case, weigh_all
from .settings import Settings
from .worker import Build

_ANY = Query("warm", (Message("user", "What is 1 + 1?"),), Sampling(1))


class RewardExpert:
    """Weighs cases with a scorer, a batch at a time. Healthy while no batch takes longer than `stall` seconds."""

    def __init__(self, scorer: Scorer, stall: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._scorer, self._stall, self._clock = scorer, stall, clock
        self._thread = ThreadPoolExecutor(1, "reward")
        self._began: float | None = None
        weigh_all(scorer, [_warming()])  # the model is read now, not when the first request waits for it

    async def weigh(self, cases: Sequence[Case]) -> list[tuple[Verdict, ...] | str]:
        """The verdicts on each case; where the model fails over one, why."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._weigh, cases)

    def check_health(self) -> None:
        """Raise `RuntimeError` if the model hangs."""
        began = self._began
        if began is not None and self._clock() - began > self._stall:
            raise RuntimeError("the reward model hangs")

    def _weigh(self, cases: Sequence[Case]) -> list[tuple[Verdict, ...] | str]:
        """One case that the model cannot bear spoils nobody else's."""
        self._began = self._clock()
        try:
            return [*weigh_all(self._scorer, cases)]
        except Exception as error:
            if len(cases) == 1:
                return [f"the reward model failed: {type(error).__name__}"]
            return [given for case in cases for given in self._weigh([case])]
        finally:
            self._began = None


class RewardReplica(RewardExpert):
    """One that is made of what can travel. Its process ends with a model that hangs, and Ray Serve starts another."""

    def __init__(self, pool: str, root: str, settings: Settings, build: Build) -> None:
        super().__init__(build(Pool.model_validate({**json.loads(pool), "root": root})).scorer, settings.stall)

    def check_health(self) -> None:
        """End the process if the model hangs; a thread in native code cannot be ended in any other way."""
        try:
            super().check_health()
        except RuntimeError:
            os._exit(1)


def _warming() -> Case:
    found = tuple(Candidate(_ANY.id, "a", slot, str(slot), "stop", 1, 1, "resident") for slot in (1, 2))
    return _ANY, found, Recruitment(_ANY.id, tuple(Assignment(_ANY.id, "a", slot) for slot in (1, 2)), {"a": 1.0})
