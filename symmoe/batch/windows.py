"""How many lines of a job are answered together: few hold little memory and give rows early, many cost fewer loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from symmoe.planning.costs import ExpertCost

FIRST, LEAST, MOST = 256, 1024, 8192
"""Lines of a window; of the first one, where experts cost nothing to load."""
MOST_BYTES = 16 << 20
"""Characters of prompts in a window. What is held of a line is some ten times its prompt."""
LOADING = 0.002
"""What loading may take of the time of generating: beyond it windows are as large as memory allows."""


@dataclass(frozen=True, slots=True)
class Window:
    """Lines and characters of prompts that are answered together, and why so many; `first` are those of the first."""

    lines: int
    why: str
    first: int = MOST
    bytes: int = MOST_BYTES


def choose_window(costs: Mapping[str, ExpertCost], loads: bool = True) -> Window:
    """The smallest window in which loading is at most `LOADING` of the work, between `LEAST` and `MOST` lines.

    Every expert is loaded once a window, but for the one that the window before ended with. A job of fewer lines than
    the window has is one: each expert is loaded once. `loads` says whether loading costs anything at all.
    """
    request = median(cost.request for cost in costs.values())
    loading = sum(cost.same_model for cost in costs.values()) - max(cost.same_model for cost in costs.values())
    if not loads or not loading:
        return Window(LEAST, f"windows of {LEAST} lines: experts cost nothing to load", FIRST)
    lines = min(MOST, max(LEAST, round(loading / (LOADING * max(request, 1e-6)))))
    share = loading / (loading + lines * request)
    why = (
        f"windows of up to {lines} lines: loading {len(costs)} experts takes {loading:.1f} s a window, "
        f"{100 * share:.2g} % of it; with {LEAST} lines it would be {100 * loading / (loading + LEAST * request):.2g} %"
    )
    return Window(lines, why)
