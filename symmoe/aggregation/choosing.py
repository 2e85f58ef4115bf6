"""Who aggregates: the expert whose record at it is best, for the kind of answer that a question wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from symmoe.types import AnswerKind, Profiles, Query, Tally

CHANCE = 1 / 3
"""Of picking the right one of the task's three candidates."""
_PRIOR = 4.0
"""Tasks' worth of chance that every expert's record begins with."""


def best_aggregator(profiles: Profiles, kind: AnswerKind | None = None) -> str | None:
    """The expert of the best record at aggregating answers of one kind, or over all kinds for None.

    Few tasks count for little: every record begins with a few at chance. None where nobody has a record.
    """
    counted = {
        name: [tally for k, tally in profile.aggregation.items() if kind in (None, k)]
        for name, profile in profiles.experts.items()
    }
    asked = {name: tallies for name, tallies in counted.items() if tallies}
    return max(asked, key=lambda name: _expected(asked[name]), default=None)


def by_kind(profiles: Profiles, otherwise: str) -> Callable[[Query], str]:
    """Chooses the best on record for a query's kind; over all kinds, or else `otherwise`, where nobody has one."""
    overall = best_aggregator(profiles) or otherwise
    best = {kind: best_aggregator(profiles, kind) or overall for kind in get_args(AnswerKind)}
    return lambda query: best[query.kind]


def _expected(tallies: Sequence[Tally]) -> float:
    right, asked = sum(t.right for t in tallies), sum(t.asked for t in tallies)
    return (right + CHANCE * _PRIOR) / (asked + _PRIOR)
