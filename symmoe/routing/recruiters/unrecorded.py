"""The recruiter of a pool without records: one expert, whom the pool file names, answers everything."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.routing.recruiters.slots import numbered
from symmoe.types import Explanation, Query, Recruitment, Skills, Standing

_NOTE = "nothing is on record of any expert: the pool's fallback is asked"


class UnrecordedRecruiter:
    """Asks the pool's fallback, and nobody else: which other expert is better, nobody knows yet."""

    name = "fallback"

    def __init__(self, fallback: str) -> None:
        self._fallback = fallback

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """The fallback, once, for each query."""
        return [Recruitment(query.id, numbered(query, [self._fallback]), {self._fallback: 1.0}) for query in queries]

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """That nothing is known: any accuracy is as likely as any other, and no token was ever counted."""
        standing = Standing(self._fallback, 1.0, 0.5, 0.025, 0.975, 0.0, True, "the pool's fallback", {})
        return Explanation(query.id, self.name, {}, (standing,), (0.0,), _NOTE)
