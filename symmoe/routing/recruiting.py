"""The stage that chooses experts, and how its parts fill slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from symmoe.policy import Policy
from symmoe.protocols import Recruiter
from symmoe.types import Assignment, Query, Recruitment, Skills


def recruit(
    recruiter: Callable[[Policy], Recruiter],
    queries: Sequence[Query],
    skills: Sequence[Skills],
    policies: Sequence[Policy],
    seed: int,
) -> list[Recruitment]:
    """Choose the experts that answer each query under its policy. Queries of one policy are recruited for together."""
    recruitments: dict[int, Recruitment] = {}
    for policy in dict.fromkeys(policies):
        places = [place for place, each in enumerate(policies) if each == policy]
        alike, needed = [queries[place] for place in places], [skills[place] for place in places]
        recruitments.update(zip(places, recruiter(policy).recruit(alike, needed, policy.k, seed), strict=True))
    return [recruitments[place] for place in range(len(queries))]


def drawn(query: Query, shares: Mapping[str, float], k: int, seed: int) -> tuple[Assignment, ...]:
    """Draw k slots with replacement. The draw depends on the seed and the query's text, not on its neighbours."""
    rng = Random(f"{seed}/{query.text}")
    return numbered(query, rng.choices(list(shares), weights=list(shares.values()), k=k))


def numbered(query: Query, experts: Sequence[str]) -> tuple[Assignment, ...]:
    """One assignment for each expert named, repeats told apart by slot."""
    slots: dict[str, int] = {}
    assignments = []
    for expert in experts:
        slots[expert] = slots.get(expert, -1) + 1
        assignments.append(Assignment(query.id, expert, slots[expert]))
    return tuple(assignments)
