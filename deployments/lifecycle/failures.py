"""When an expert has failed often enough to be left alone."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILING = ("expert_unavailable", "expert_lost")
"""What counts: it could not be made ready or did not answer, or the engine was lost while it answered."""


class Failures:
    """Counts each expert's failures in a row; after so many, 0 for never, they are enough.

    What fails within `apart` seconds of the failure counted last is the same failure: one load that fails, or one
    machine that is lost, fails many requests. One answer in between clears the count.
    """

    def __init__(self, after: int, apart: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._after, self._apart, self._clock = after, apart, clock
        self._counted: dict[str, tuple[int, float]] = {}

    def failed(self, expert: str, on_trial: bool = False) -> bool:
        """Note a failure; whether they are enough now. One on trial has had all but one."""
        now = self._clock()
        count, last = self._counted.get(expert, (0, now - self._apart))
        if now - last >= self._apart:
            count, last = count + 1, now
        self._counted[expert] = count, last
        return self._after > 0 and (on_trial or count >= self._after)

    def answered(self, expert: str) -> None:
        """Note an answer."""
        self._counted.pop(expert, None)

    def count(self, expert: str) -> int:
        """How many in a row."""
        return self._counted.get(expert, (0, 0.0))[0]
