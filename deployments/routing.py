"""Who answers which question, decided for all questions that arrive together."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from symmoe.build import Assembly, build_recruiter
from symmoe.protocols import Recruiter
from symmoe.routing.profiles import complete
from symmoe.routing.recruiters.unrecorded import UnrecordedRecruiter
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.types import Assignment, Explanation, Message, Profiles, Query, Recruitment, Sampling, Skills

from .catalogue import Choosing
from .events import TurnedAway
from .experts import TurnedAwayError
from .lifecycle.roster import Roster
from .microbatch import MicroBatch

Path = Literal["named", "single", "aggregated"]
SEED = 0
_UNROUTED = TurnedAway(
    400, "nothing_routed", "this pool has no records of its experts and names no fallback: ask an expert by its name"
)
_NOBODY = TurnedAway(503, "expert_unavailable", "no expert may be asked just now", 5.0)
_RECRUITERS = 64


@dataclass(frozen=True, slots=True)
class Routed:
    """Who is asked and why. `path` says how the answer comes about; `seconds` is what the decision took."""

    path: Path
    recruitment: Recruitment
    skills: Skills | None = None
    explanation: Explanation | None = None
    seconds: float = 0.0

    @property
    def asked(self) -> tuple[Assignment, ...]:
        """The assignments that are carried out: one expert's where its answer stands alone."""
        assignments = self.recruitment.assignments
        return assignments if self.path == "aggregated" else assignments[:1]


def named(query: Query, expert: str) -> Routed:
    """A question for an expert whom the client chose."""
    return Routed("named", Recruitment(query.id, (Assignment(query.id, expert, 0),), {expert: 1.0}))


class Router:
    """Tags and recruits in micro-batches. `trust` is the share from which an expert's answer stands alone.

    `roster` says who is there.
    """

    def __init__(self, assembly: Assembly, trust: float, roster: Roster) -> None:
        self._assembly, self._trust, self._roster = assembly, trust, roster
        thread = ThreadPoolExecutor(1, "routing")  # an embedder's tokenizer bears one thread at a time
        self._batch: MicroBatch[tuple[Query, Choosing], tuple[Skills, Recruitment]] = MicroBatch(
            self._choose, thread=thread
        )
        self._embedding: MicroBatch[str, NDArray[np.float32]] = MicroBatch(
            lambda texts: list(self._assembly.embedder.embed(texts)), thread=thread
        )
        self._recruiter = lru_cache(_RECRUITERS)(self._new_recruiter)

    async def warm(self) -> None:
        """Load the embedder and the records before the first question, if any can be routed."""
        if self._routes:
            await self.route(Query("warm", (Message("user", "What is 1 + 1?"),), Sampling(1)), Choosing(1), True)

    async def route(self, query: Query, choice: Choosing, explain: bool, background: bool = False) -> Routed:
        """Who answers a question; `TurnedAwayError` where nobody can tell, and a question must name its expert.

        One in the `background` waits for all others.
        """
        if not self._routes:
            raise TurnedAwayError(_UNROUTED)
        began = time.perf_counter()
        skills, recruitment = await self._batch((query, choice), background)
        explanation = None
        if explain:
            recruiter = self._recruiter_for(choice)
            explanation = await asyncio.to_thread(recruiter.explain, query, skills, choice.k, SEED)
        path = self._path(recruitment, choice)
        return Routed(path, recruitment, skills, explanation, time.perf_counter() - began)

    async def embed(self, text: str) -> NDArray[np.float32]:
        """A text as the tagger's embedder sees it: a unit row `[d]`."""
        return await self._embedding(text)

    @property
    def _routes(self) -> bool:
        routing = self._assembly.pool.routing
        return routing.profiles is not None or routing.fallback is not None

    def _path(self, recruitment: Recruitment, choice: Choosing) -> Path:
        asked = recruitment.assignments
        trusted = recruitment.shares.get(asked[0].expert, 0.0) >= self._trust
        alone = len(asked) == 1 or choice.aggregate == "never" or (choice.aggregate == "auto" and trusted)
        return "single" if alone else "aggregated"

    def _choose(self, items: Sequence[tuple[Query, Choosing]]) -> list[tuple[Skills, Recruitment]]:
        """Tag all together, then recruit for those that choose alike. Runs in the batch's thread."""
        skills = tag(self._assembly.tagger, [query for query, _ in items])
        alike: dict[Choosing, list[int]] = defaultdict(list)
        for place, (_, choice) in enumerate(items):
            alike[choice].append(place)
        chosen: dict[int, Recruitment] = {}
        for choice, places in alike.items():
            recruiter = self._recruiter_for(choice)
            queries = [items[place][0] for place in places]
            given = recruit(recruiter, queries, [skills[place] for place in places], choice.k, SEED)
            chosen.update(zip(places, given, strict=True))
        return [(skills[place], chosen[place]) for place in range(len(items))]

    def _recruiter_for(self, choice: Choosing) -> Recruiter:
        return self._recruiter(choice.full, choice.budget, choice.without, self._roster.version)

    def _new_recruiter(self, full: bool, budget: float | None, without: tuple[str, ...], version: int) -> Recruiter:
        """One over the experts that there are in this `version` of the roster but for some."""
        pool = self._roster.pool
        left = tuple(expert for expert in pool.experts if expert.name not in without)
        names = tuple(expert.name for expert in left)
        fallback = pool.routing.fallback
        if fallback is not None and fallback not in names and self._roster.has(fallback):
            fallback = None
        if not left or (pool.routing.profiles is None and fallback is None):
            raise TurnedAwayError(_NOBODY)
        if pool.routing.profiles is None and fallback is not None:
            return UnrecordedRecruiter(pool.expert(fallback).name)
        changed = {"budget": budget, "fallback": fallback, **({"top_p": 1.0} if full else {})}
        routing = pool.routing.model_copy(update=changed)
        return build_recruiter(pool.model_copy(update={"routing": routing, "experts": left}), self._records(names))

    def _records(self, names: Sequence[str]) -> Profiles:
        known = self._assembly.profiles()
        return complete(Profiles({**known.experts, **self._roster.profiles}, known.parents), names)
