"""Sizes of windows, lines answered together: small ones save memory and give rows early, large ones save loads."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from symmoe.planning.costs import ExpertCost

FIRST, LEAST, MOST, LARGEST = 256, 1024, 8192, 32_768
"""Lines of a window; of the first one, where experts cost nothing to load; of one where loading is dear, at most."""
MOST_BYTES = 16 << 20
"""Characters of prompts in a window, twice as many where loading is dear. A line holds some ten times its prompt."""
LOADING, DEAR = 0.002, 0.02
"""What loading may take of a window's time, for which it has up to `MOST` lines; what is worth `LARGEST`, or several.
"""
MOST_TOGETHER = 32
"""How many windows may wait on disk until each expert was asked in all of them."""
_GARBAGE = 300_000
"""Objects before circles among new ones are looked for: more than a window of `LEAST` lines has, hardly any in circles.
As often as Python would by itself, it costs a fifth of the time of a window on engines that cost nothing.
"""


@contextmanager
def answering_windows() -> Iterator[None]:
    """A process whose main work windows are: garbage is looked for seldom, and matrices multiplied by one thread.

    They are small, and the other threads would keep their cores busy for a while after each.
    """
    from threadpoolctl import threadpool_limits

    before = gc.get_threshold()
    gc.set_threshold(_GARBAGE, *before[1:])
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True, slots=True)
class Window:
    """How many lines and characters of prompts are answered together, and why; `first` is the first window's size.

    Experts are asked in as many windows `together`, before the first of these is answered.
    """

    lines: int
    why: str
    first: int
    bytes: int = MOST_BYTES
    together: int = 1

    def times(self, lines: int) -> int:
        """How often every expert is loaded in a job of so many lines; more if long prompts fill windows sooner."""
        return max(1, math.ceil(lines / (self.lines * self.together)))


def choose_window(costs: Mapping[str, ExpertCost], loads: bool = True) -> Window:
    """The smallest window, `LEAST` to `MOST` lines, in which loading is at most `LOADING` of the work.

    If loading is more than `DEAR` even in the largest, it is the smallest that gets it down to that, at most `LARGEST`
    lines, and if that is not enough, experts are asked in several windows before the next is loaded. Every expert is
    loaded once for that, except the one that came last before. A job that fits one window is answered as one: each
    expert is loaded once. `loads` says whether loading costs anything at all.
    """
    request = median(cost.request for cost in costs.values())
    loading = sum(cost.same_model for cost in costs.values()) - max(cost.same_model for cost in costs.values())
    if not loads or not loading:
        return Window(LEAST, f"windows of {LEAST} lines: experts cost nothing to load", FIRST)
    request = max(request, 1e-6)
    lines = min(MOST, max(LEAST, round(loading / (LOADING * request))))
    if lines == MOST:
        lines = min(LARGEST, max(MOST, round(loading * (1 - DEAR) / (DEAR * request))))
    enough = math.ceil(loading * (1 - DEAR) / (DEAR * request * lines))
    together = min(MOST_TOGETHER, enough) if lines == LARGEST else 1

    def share(asked: int) -> str:
        return f"{100 * loading / (loading + asked * request):.2g} %"

    size = f"windows of up to {lines} lines"
    other = f"with {LEAST} lines it would be {share(LEAST)}"
    if together > 1:
        size = f"{size}, {together} of them on disk until each expert was asked in all"
        other = f"window by window it would be {share(lines)}"
    why = f"{size}: loading {len(costs)} experts takes {loading:.1f} s each time, {share(lines * together)}; {other}"
    return Window(lines, why, lines, MOST_BYTES if lines <= MOST else 2 * MOST_BYTES, together)
