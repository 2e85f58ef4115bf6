"""The stage that chooses experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symmoe.policy import Policy
from symmoe.protocols import Recruiter
from symmoe.types import Query, Recruitment, Skills


def recruit(
    recruiter: Callable[[Policy], Recruiter],
    queries: Sequence[Query],
    skills: Sequence[Skills],
    policies: Sequence[Policy],
    seed: int,
) -> list[Recruitment]:
    """Choose the experts that answer each query under its policy. Queries of one policy are recruited for together."""
    found: dict[int, Recruitment] = {}
    for policy in dict.fromkeys(policies):
        places = [place for place, each in enumerate(policies) if each == policy]
        alike, needed = [queries[place] for place in places], [skills[place] for place in places]
        found.update(zip(places, recruiter(policy).recruit(alike, needed, policy.k, seed), strict=True))
    return [found[place] for place in range(len(queries))]
