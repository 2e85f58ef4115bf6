"""Choices that must be made on the record, before the questions are seen."""

from __future__ import annotations

from symmoe.aggregation.choosing import best_aggregator
from symmoe.types import Profiles


def by_record(profiles: Profiles) -> list[str]:
    """Experts by their overall validation accuracy, best first; equal ones in the pool's order."""
    overall = {name: profile.overall for name, profile in profiles.experts.items()}
    return sorted(overall, key=lambda name: -(overall[name].right + 1) / (overall[name].asked + 2))


def fixed_aggregator(profiles: Profiles) -> str:
    """The one expert that aggregates: the best on record at it, or, where no such record is, the best solver."""
    return best_aggregator(profiles) or by_record(profiles)[0]
