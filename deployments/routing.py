"""Decides which experts answer, for all questions that arrive together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from symmoe.answering import Routed
from symmoe.build import Assembly, recruiter_under
from symmoe.policy import Policy
from symmoe.protocols import Recruiter
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.types import Message, Profiles, Query, Recruitment, Sampling, Skills

from .events import TurnedAway, TurnedAwayError
from .lifecycle.roster import Roster
from .microbatch import MicroBatch

SEED = 0
_NOBODY = TurnedAway(503, "expert_unavailable", "no expert may be asked just now", 5.0)
_RECRUITERS = 64
_EMBEDDED_TOGETHER = 8
"""Texts after which those that wait to be routed have their turn."""


class Router:
    """Tags and recruits in micro-batches. `roster` holds the present experts."""

    def __init__(self, assembly: Assembly, roster: Roster) -> None:
        self._assembly, self._roster = assembly, roster
        self._thread = ThreadPoolExecutor(1, "routing")
        self._batch: MicroBatch[tuple[Query, Policy], tuple[Skills, Recruitment]] = MicroBatch(
            self._choose, thread=self._thread
        )
        self._recruiter = lru_cache(_RECRUITERS)(self._new_recruiter)

    async def warm(self) -> None:
        """Load the embedder and the records before the first question."""
        await self.route(Query("warm", (Message("user", "What is 1 + 1?"),), Sampling(1)), Policy(1), True)

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """The `[n, d]` vectors of texts, and their tokens in all; questions are routed in between.

        Raises `CheckpointError`.
        """
        embedder, loop = self._assembly.embedder, asyncio.get_running_loop()
        parts: list[NDArray[np.float32]] = []
        tokens = 0
        for start in range(0, len(texts), _EMBEDDED_TOGETHER):
            batch = texts[start : start + _EMBEDDED_TOGETHER]
            parts.append(await loop.run_in_executor(self._thread, embedder.embed, batch))
            tokens += await loop.run_in_executor(self._thread, embedder.tokens, batch)
        return np.concatenate(parts), tokens

    async def route(self, query: Query, policy: Policy, explain: bool, background: bool = False) -> Routed:
        """The experts that answer a question. Raises `TurnedAwayError` if nobody can tell and it names no expert.

        One in the `background` waits for all others.
        """
        began = time.perf_counter()
        skills, recruitment = await self._batch((query, policy), background)
        explanation = None
        if explain:
            recruiter = self._recruiter_for(policy)
            loop = asyncio.get_running_loop()
            explanation = await loop.run_in_executor(self._thread, recruiter.explain, query, skills, policy.k, SEED)
        way, seconds = policy.way(recruitment), time.perf_counter() - began
        return Routed(way, recruitment, skills, explanation, seconds)

    async def under(self, query: Query, policy: Policy, rule: str | None = None) -> Routed:
        """Who would answer a question under another recruiting `rule` than the pool's, and why; for replays.

        Raises `TurnedAwayError` if no expert is left.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._under, query, policy, rule)

    def _under(self, query: Query, policy: Policy, rule: str | None) -> Routed:
        recruiter = self._new_recruiter(policy.full, policy.budget, policy.without, self._roster.version, rule)
        (skills,) = tag(self._assembly.tagger, [query])
        (recruitment,) = recruiter.recruit([query], [skills], policy.k, SEED)
        explanation = recruiter.explain(query, skills, policy.k, SEED)
        return Routed(policy.way(recruitment), recruitment, skills, explanation)

    @property
    def records(self) -> Profiles:
        """The experts' records, including newcomers'."""
        profiles = self._assembly.profiles()
        return replace(profiles, experts={**profiles.experts, **self._roster.profiles})

    def _choose(self, items: Sequence[tuple[Query, Policy]]) -> list[tuple[Skills, Recruitment]]:
        """Tag all together, then recruit. Runs in the batch's thread."""
        skills = tag(self._assembly.tagger, [query for query, _ in items])
        queries, policies = zip(*items, strict=True)
        return list(zip(skills, recruit(self._recruiter_for, queries, skills, policies, SEED), strict=True))

    def _recruiter_for(self, policy: Policy) -> Recruiter:
        return self._recruiter(policy.full, policy.budget, policy.without, self._roster.version)

    def _new_recruiter(
        self, full: bool, budget: float | None, without: tuple[str, ...], version: int, rule: str | None = None
    ) -> Recruiter:
        """One over the experts that there are in this `version` of the roster but for some."""
        pool = self._roster.pool
        candidates = [expert.name for expert in pool.experts if expert.name not in without]
        if not candidates:
            raise TurnedAwayError(_NOBODY)
        if rule is not None:
            pool = pool.model_copy(update={"routing": pool.routing.model_copy(update={"recruiter": rule})})
        return recruiter_under(pool, self.records, self._assembly.embedder, full, budget, without)
