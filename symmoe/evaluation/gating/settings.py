"""Which candidates there are to choose among: several settings cut out of the same answers."""

from __future__ import annotations

from collections.abc import Callable

from symmoe.evaluation.gating.field import Field
from symmoe.types import Candidate, Recruitment

DRAWS = 3
"""How many draws of one expert stand against each other."""

Wanted = Callable[[Candidate, Recruitment], bool]


def best(count: int, candidate: Candidate, recruitment: Recruitment) -> bool:
    """Whether a candidate's expert is among those that stand best for the question."""
    return candidate.expert in list(recruitment.shares)[:count]


SETTINGS: dict[str, Wanted] = {
    "everyone": lambda c, r: c.slot == 0,
    "three_experts": lambda c, r: c.slot == 0 and best(3, c, r),
    "two_experts_redrawn": lambda c, r: c.slot > 0 and best(2, c, r),
    "one_expert_redrawn": lambda c, r: 0 < c.slot <= DRAWS and best(1, c, r),
    "recruited": lambda c, r: c.slot == 0 and c.expert in {a.expert for a in r.assignments},
}
"""Every expert once; the three that stand best, once; draws of the best two or of the best; symmoe's own recruiting."""


def cut(field: Field) -> dict[str, Field]:
    """The settings for which a field holds candidates to every question."""
    fields = {name: field.keep(wanted) for name, wanted in SETTINGS.items()}
    return {name: each for name, each in fields.items() if all(each.candidates)}
