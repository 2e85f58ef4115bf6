"""Local search over whole placements: descend by dividing pairs of workers anew, and shake what is stuck."""

from __future__ import annotations

import numpy as np

from symmoe.planning.pairs import divided
from symmoe.planning.problem import Instance, Placement

_NEAR = 1e-3
_SHAKEN = 3


def improved(instance: Instance, placement: Placement, bound: float, tries: int, seed: int = 0) -> Placement:
    """A placement that ends no later than the one given; stops near `bound` or after so many divisions of a pair.

    Iterated local search: the last worker to end is paired with each other, soonest first, until one division ends
    sooner. Where none does, the pieces of three workers are dealt anew at random and the descent begins again.
    """
    descent = _Descent(instance, placement, tries, np.random.default_rng(seed))
    descent.run(bound)
    best, end = descent.copy(), descent.end
    while descent.left > 0 and end > bound * (1 + _NEAR) and len(placement) > 1:
        descent.shake()
        descent.run(bound)
        if descent.end < end:
            best, end = descent.copy(), descent.end
        else:
            descent.restore(best)
    return best


class _Descent:
    """A placement on its way down, with the seconds of its workers and the divisions left to try."""

    def __init__(self, instance: Instance, placement: Placement, tries: int, rng: np.random.Generator) -> None:
        self.instance, self.left, self._rng = instance, tries, rng
        self.restore(placement)

    @property
    def end(self) -> float:
        """The makespan."""
        return max(self._seconds)

    def copy(self) -> Placement:
        """The placement as it is now."""
        return [dict(pieces) for pieces in self._placement]

    def restore(self, placement: Placement) -> None:
        """Go on from another placement."""
        self._placement = [dict(pieces) for pieces in placement]
        self._seconds = self.instance.all_seconds(self._placement)

    def run(self, bound: float) -> None:
        """Descend until no pair ends sooner."""
        while self.left > 0 and self.end > bound * (1 + _NEAR) and self._step():
            pass

    def shake(self) -> None:
        """Deal the pieces of the last worker to end and of others anew, each whole, greatest first but for noise."""
        last = int(np.argmax(self._seconds))
        others = [worker for worker in self.instance.workers if worker != last]
        workers = [last, *self._rng.permutation(others)[: _SHAKEN - 1].tolist()]
        counts: dict[int, int] = {}
        for worker in workers:
            for expert, count in self._placement[worker].items():
                counts[expert] = counts.get(expert, 0) + count
            self._placement[worker], self._seconds[worker] = {}, 0.0
        noise = self._rng.uniform(0.7, 1.3, len(self.instance.names))
        for expert in sorted(counts, key=lambda e: -noise[e] * counts[e] * self.instance.request[e]):
            soonest = min((w for w in workers if self.instance.fits[expert][w]), key=lambda w: self._seconds[w])
            self._placement[soonest][expert] = counts[expert]
            self._seconds[soonest] = self.instance.seconds(soonest, self._placement[soonest])

    def _step(self) -> bool:
        last = int(np.argmax(self._seconds))
        for worker in np.argsort(self._seconds, kind="stable").tolist():
            if worker == last:
                continue
            self.left -= 1
            sides = divided(self.instance, self._placement, (last, worker), self._rng)
            ends = [self.instance.seconds(w, side) for w, side in zip((last, worker), sides, strict=True)]
            if max(ends) < self._seconds[last] - 1e-9:
                self._placement[last], self._placement[worker] = sides
                self._seconds[last], self._seconds[worker] = ends
                return True
        return False
