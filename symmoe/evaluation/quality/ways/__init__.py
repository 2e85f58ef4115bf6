"""The ways of answering that are compared, a file each."""

from __future__ import annotations

from collections.abc import Mapping

from symmoe.evaluation.quality.contest import Way
from symmoe.evaluation.quality.ways.all_vote import AllVote
from symmoe.evaluation.quality.ways.best_single import BestSingle, HindsightSingle
from symmoe.evaluation.quality.ways.mixture import MixtureOfAgents
from symmoe.evaluation.quality.ways.oracle import Oracle
from symmoe.evaluation.quality.ways.random_vote import RandomVote
from symmoe.evaluation.quality.ways.self_consistency import SelfConsistency
from symmoe.evaluation.quality.ways.self_mixture import SelfMixture
from symmoe.evaluation.quality.ways.symbolic import SymbolicMoe, SymbolicVote

RIVALS = ("moa", "self_moa", "all_vote")
"""The multi-agent rivals of which the best is the bar."""


def rivals(budget: int, proposers: int | None, samples: int) -> Mapping[str, Way]:
    """Every way but symmoe's own.

    `budget` are the completion tokens of self-consistency, `proposers` the experts of Mixture-of-Agents (None: all),
    `samples` the draws of Self-MoA.
    """
    return {
        "best_single": BestSingle(),
        "best_single_hindsight": HindsightSingle(),
        "self_consistency": SelfConsistency(budget),
        "random_vote": RandomVote(),
        "all_vote": AllVote(),
        "moa": MixtureOfAgents(proposers),
        "self_moa": SelfMixture(samples),
        "symbolic_moe": SymbolicMoe(),
        "symbolic_vote": SymbolicVote(),
        "oracle": Oracle(),
    }
