"""The claims that the comparison is to decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from symmoe.evaluation.quality.bootstrap import paired
from symmoe.evaluation.quality.spent import Spent
from symmoe.evaluation.quality.ways import RIVALS

NEEDED = 8.15
"""Points above the best multi-agent rival: what Symbolic-MoE reports over Self-MoA."""


def judged(right: Mapping[str, Sequence[float]], spent: Mapping[str, Spent], seed: int) -> dict[str, Any]:
    """Each claim with its figures and whether it holds.

    The best rival is chosen on these very questions, which favours it. A claim holds only if the interval lies above
    zero; "no more tokens" means completion tokens and all tokens both.
    """
    best = max(RIVALS, key=lambda name: sum(right[name]))

    def against(name: str, points: float, no_more_tokens: bool) -> dict[str, Any]:
        row = paired(right["symmoe"], right[name], seed)
        ours, theirs = spent["symmoe"], spent[name]
        cheap = ours.completion_tokens <= theirs.completion_tokens and ours.tokens <= theirs.tokens
        holds = row["ci95"][0] > 0 and row["points"] >= points and (cheap or not no_more_tokens)
        tokens = {"completion": [ours.completion_tokens, theirs.completion_tokens], "all": [ours.tokens, theirs.tokens]}
        return {"against": name, "needed": points, **row, "tokens": tokens, "no_more_tokens": cheap, "holds": holds}

    return {
        "best_multi_agent_rival": against(best, NEEDED, True),
        "self_consistency_at_equal_tokens": against("self_consistency", 0.0, False),
        "symbolic_moe_as_published": against("symbolic_moe", 0.0, True),
    }
