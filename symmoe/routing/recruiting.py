"""The stage that chooses experts."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.protocols import Recruiter
from symmoe.types import Query, Recruitment, Skills


def recruit(
    recruiter: Recruiter, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int
) -> list[Recruitment]:
    """The stage: who answers each query."""
    return recruiter.recruit(queries, skills, k, seed)
