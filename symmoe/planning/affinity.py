"""Bringing together on one worker what is asked together, where that costs next to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from symmoe.planning.problem import Instance, Placement, Problem
from symmoe.types import Recruitment

_MOVES = 200
_Matrix = NDArray[np.float64]


def asked_together(recruitments: Sequence[Recruitment], aggregator: str | None = None) -> dict[tuple[str, str], float]:
    """For each pair of experts how many questions ask both. An aggregator has a part in every question."""
    pairs: Counter[tuple[str, str]] = Counter()
    for recruitment in recruitments:
        experts = {assignment.expert for assignment in recruitment.assignments}
        pairs.update(combinations(sorted(experts | {aggregator} if aggregator else experts), 2))
    return {pair: float(count) for pair, count in pairs.items()}


def gathered(problem: Problem, instance: Instance, placement: Placement, latest: float) -> Placement:
    """The placement with whole pieces moved or exchanged, so that more is together and no worker ends after `latest`.

    Steepest ascent on the number of pairs that share a worker: ExFlow's affinity (arXiv 2401.08383), for whole experts.
    """
    wanted = _wanted(problem, instance)
    if not wanted.any() or len(placement) < 2:
        return placement
    placement = [dict(pieces) for pieces in placement]
    for _ in range(_MOVES):
        if not _one_gain(instance, placement, wanted, latest):
            break
    return placement


def togetherness(problem: Problem, instance: Instance, placement: Placement) -> float:
    """How many wishes for two experts on one worker are met."""
    wanted = _wanted(problem, instance)
    return sum(float(wanted[np.ix_(list(pieces), list(pieces))].sum()) / 2 for pieces in placement if pieces)


def _wanted(problem: Problem, instance: Instance) -> _Matrix:
    places = {name: place for place, name in enumerate(instance.names)}
    wanted = np.zeros((len(places), len(places)))
    for (one, other), count in problem.together.items():
        if one in places and other in places and one != other:
            wanted[places[one], places[other]] += count
            wanted[places[other], places[one]] += count
    return wanted


def _one_gain(instance: Instance, placement: Placement, wanted: _Matrix, latest: float) -> bool:
    """Make the move or exchange that gains most of those that end in time; False if none gains."""
    present = np.zeros((len(instance.names), len(placement)))
    for worker, there in enumerate(placement):
        present[list(there), worker] = 1.0
    near = wanted @ present
    pieces = [(e, w) for w, there in enumerate(placement) for e in there]
    experts, workers = (np.array(column) for column in zip(*pieces, strict=True))
    own = near[experts, workers]
    moving = near[experts, :] - own[:, None]
    crossed = near[experts, :][:, workers] - own[:, None]
    exchanging = crossed + crossed.T - 2 * wanted[np.ix_(experts, experts)]
    options = [(-float(moving[p, w]), int(p), int(w), -1) for p, w in np.argwhere(moving > 1e-9)]
    options += [(-float(exchanging[p, q]), int(p), -1, int(q)) for p, q in np.argwhere(exchanging > 1e-9) if p < q]
    for _, place, to, other in sorted(options):
        expert, worker = pieces[place]
        partner, target = (None, to) if other < 0 else pieces[other]
        if target != worker and _exchanged(instance, placement, (worker, expert), (target, partner), latest):
            return True
    return False


def _exchanged(
    instance: Instance, placement: Placement, one: tuple[int, int], other: tuple[int, int | None], latest: float
) -> bool:
    """Do it if both workers can take what they are given and end in time."""
    (here, leaving), (there, coming) = one, other
    first, second = dict(placement[here]), dict(placement[there])
    count = first.pop(leaving)
    if coming is not None:
        if coming in first or not instance.fits[coming][here]:
            return False
        first[coming] = second.pop(coming)
    if leaving in second or not instance.fits[leaving][there]:
        return False
    second[leaving] = count
    if max(instance.seconds(here, first), instance.seconds(there, second)) > latest:
        return False
    placement[here], placement[there] = first, second
    return True
