"""How long requests run beside others, learned from those that ran."""

from __future__ import annotations

_FORGETTING = 0.02
_SPREAD = 0.05
"""Counts that vary less than this, relative to their mean and squared, tell nothing of a slope."""


class Durations:
    """A line through what was seen: seconds over how many ran at once. The older, the less it weighs.

    With one more beside it nothing runs shorter, so the line never falls; nor does it go below zero at none.
    """

    def __init__(self) -> None:
        self._means: tuple[float, float, float, float] | None = None

    def saw(self, count: float, seconds: float) -> None:
        """A request took so long while so many ran, on average and itself included."""
        seen = (count, seconds, count * count, count * seconds)
        if self._means is None:
            self._means = seen
        else:
            self._means = tuple(  # type: ignore[assignment]
                mean + _FORGETTING * (new - mean) for mean, new in zip(self._means, seen, strict=True)
            )

    def of(self, count: float) -> float | None:
        """The seconds that one of so many would take; None as long as nothing was seen."""
        if self._means is None:
            return None
        counts, seconds, squares, products = self._means
        spread = squares - counts * counts
        slope = (products - counts * seconds) / spread if spread > _SPREAD * counts * counts else 0.0
        slope = min(max(slope, 0.0), seconds / counts)
        return seconds + slope * (count - counts)
