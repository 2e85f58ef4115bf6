"""Whether candidates agree enough to skip the aggregator (the consensus scorer of MOSAIC, calibrated).

Its thresholds are fitted on validation questions.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.reading import UNREAD
from symmoe.errors import PoolError
from symmoe.json_files import read_json
from symmoe.types import Candidate, Consensus, Verdict, Vote


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least value of each figure of a `Consensus` at which candidates count as agreeing.

    The defaults, for a pool without fitted ones, require two or more experts who all say the same.
    """

    share: float = 1.0
    margin: float = 0.0
    agreement: float = 1.0
    opinions: int = 2


NEVER = Thresholds(share=2.0)
"""More than any candidates can reach."""

_SLACK = 1e-9


class ConsensusRule:
    """Candidates agree when no figure is below its threshold."""

    def __init__(self, thresholds: Thresholds = Thresholds()) -> None:
        self.thresholds = thresholds

    def reached(self, consensus: Consensus) -> bool:
        """Whether the vote's winner stands without an aggregator."""
        return not self._short(consensus)

    def why(self, consensus: Consensus) -> str:
        """The figures that decided, as text."""
        short = self._short(consensus)
        if short:
            return "; ".join(f"{name} {has:.3g} is below {least:.3g}" for name, has, least in short)
        return "; ".join(f"{name} {has:.3g} of {least:.3g}" for name, has, least in self._pairs(consensus))

    def _short(self, consensus: Consensus) -> list[tuple[str, float, float]]:
        return [(name, has, least) for name, has, least in self._pairs(consensus) if has < least - _SLACK]

    def _pairs(self, consensus: Consensus) -> list[tuple[str, float, float]]:
        names = ("share", "margin", "agreement", "opinions")
        return [(name, getattr(consensus, name), getattr(self.thresholds, name)) for name in names]


def measure(candidates: Sequence[Candidate], verdicts: Sequence[Verdict], votes: Sequence[Vote]) -> Consensus:
    """How far candidates agree with the first of `votes`.

    Each expert has one opinion, shared among its draws and weighted by the mean of their verdicts. Draws that copy one
    greedy generation do not count as an expert agreeing with itself.
    """
    answers = {place: number for number, vote in enumerate(votes) for place in vote.members}
    draws: dict[str, list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        draws[candidate.expert].append(place)
    opinions = [_opinion([answers[place] for place in places]) for places in draws.values()]
    weights = [sum(verdicts[place].weight for place in places) / len(places) for places in draws.values()]
    agreement = round(_agreement(candidates, answers, draws.values()), 6)
    if votes[0].answer == UNREAD:  # what cannot be read agrees with nothing
        return Consensus(0.0, 0.0, agreement, len(draws))
    share = sum(opinion.get(0, 0.0) for opinion in opinions) / len(opinions)
    return Consensus(round(share, 6), round(_margin(opinions, weights), 6), agreement, len(draws))


def _opinion(answers: Sequence[int]) -> dict[int, float]:
    """Each answer's part of an expert's draws."""
    return {answer: count / len(answers) for answer, count in Counter(answers).items()}


def _margin(opinions: Sequence[Mapping[int, float]], weights: Sequence[float]) -> float:
    """The winner's lead; answer 0 is the winner."""
    overall = sum(weights)
    if overall <= 0:
        return 0.0
    support: dict[int, float] = defaultdict(float)
    for opinion, weight in zip(opinions, weights, strict=True):
        for answer, part in opinion.items():
            support[answer] += part * weight / overall
    return support[0] - max((part for answer, part in support.items() if answer != 0), default=0.0)


def _agreement(candidates: Sequence[Candidate], answers: Mapping[int, int], draws: Iterable[Sequence[int]]) -> float:
    """The mean, over experts that generated more than once, of the part of draws that give their commonest answer."""
    drawn = [[answers[place] for place in places if not candidates[place].shared] for places in draws]
    repeated = [max(_opinion(redraws).values()) for redraws in drawn if len(redraws) > 1]
    return sum(repeated) / len(repeated) if repeated else 1.0


FORMAT = 1
TOLERANCE = 0.5
"""Points of accuracy that skipping the aggregator may cost."""

_STEPS, _FOLDS = 9, 5
_MARGIN_OF_ERROR = 1e-9
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Settled:
    """One validation question: how far its candidates agreed, and what vote and synthesis each earned, 0..1."""

    consensus: Consensus
    vote: float
    synthesis: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """The effect of a rule: the share of questions that it skips, and the accuracy that this costs, in points.

    `low` and `high` are the 95 % bootstrap interval of `loss`, which is negative where skipping gains accuracy.
    """

    skipped: float
    loss: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted thresholds with their effect on the questions they were fitted on, and on questions held out.

    `held_out` is measured in five folds, each decided by thresholds fitted on the other four: the figure to quote.
    """

    thresholds: Thresholds
    fitted: Predicted
    held_out: Predicted
    questions: int
    tolerance: float


def fit_consensus(records: Sequence[Settled], tolerance: float = TOLERANCE, seed: int = 0) -> Fit:
    """The thresholds that skip most questions while losing at most `tolerance` points against always aggregating.

    Use validation questions only. If no thresholds stay within the tolerance, the aggregator is always asked. Raises
    `ValueError` for fewer than ten questions.
    """
    if len(records) < 2 * _FOLDS:
        raise ValueError(f"{len(records)} questions are too few to fit thresholds on; give at least {2 * _FOLDS}")
    figures = _figures(records)
    gains = np.array([record.synthesis - record.vote for record in records])
    thresholds = _best(figures, gains, tolerance)
    folds = np.random.default_rng(seed).permutation(len(records)) % _FOLDS
    held_out = np.zeros(len(records), dtype=np.bool_)
    for fold in range(_FOLDS):
        inside = folds != fold
        held_out[~inside] = _skipped(figures[~inside], _best(figures[inside], gains[inside], tolerance))
    return Fit(
        thresholds,
        _predicted(_skipped(figures, thresholds), gains, seed),
        _predicted(held_out, gains, seed),
        len(records),
        tolerance,
    )


def write_rule(path: Path, fit: Fit) -> None:
    """Write a fit as JSON, for `aggregation.rule` of a pool file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(fit)}, indent=2) + "\n", encoding="utf-8")


def read_rule(path: Path) -> ConsensusRule:
    """Read a rule that `write_rule` wrote. Raises `PoolError`."""
    document = read_json(path, PoolError, "it is the pool's aggregation.rule")
    if document.get("format") != FORMAT:
        raise PoolError(f"{path}: not a consensus rule of format {FORMAT}", hint="fit it again")
    return ConsensusRule(_thresholds(document.get("thresholds"), path))


def _thresholds(found: Any, path: Path) -> Thresholds:
    names = set(Thresholds.__slots__)
    numbers = isinstance(found, dict) and set(found) == names and all(type(v) in (int, float) for v in found.values())
    if not numbers or not np.isfinite(list(found.values())).all():
        raise PoolError(
            f"{path}: thresholds: wants a number for each of {', '.join(sorted(names))}", hint="fit it again"
        )
    return Thresholds(**found)


def _figures(records: Sequence[Settled]) -> Floats:
    """Share, margin, agreement and opinions of every question, `[n, 4]`."""
    rows = [(r.consensus.share, r.consensus.margin, r.consensus.agreement, r.consensus.opinions) for r in records]
    return np.array(rows, dtype=np.float64).reshape(len(records), 4)


def _skipped(figures: Floats, thresholds: Thresholds) -> Mask:
    least = np.array([thresholds.share, thresholds.margin, thresholds.agreement, thresholds.opinions])
    return np.asarray((figures >= least - _MARGIN_OF_ERROR).all(axis=1))


def _best(figures: Floats, gains: Floats, tolerance: float) -> Thresholds:
    """Most skipped within the tolerance; among equals the smaller loss, then the stricter thresholds."""
    best, merit = NEVER, (0.0, 0.0, 0.0)
    grids = [_grid(figures[:, column]) for column in range(figures.shape[1])]
    above = [[figures[:, column] >= least - _MARGIN_OF_ERROR for least in grid] for column, grid in enumerate(grids)]
    for places in product(*(range(len(grid)) for grid in grids)):
        mask = np.logical_and.reduce([above[column][place] for column, place in enumerate(places)])
        loss = 100 * float(gains[mask].sum()) / len(gains)
        least = [float(grid[place]) for grid, place in zip(grids, places, strict=True)]
        reached = (float(mask.mean()), -loss, sum(least))
        if loss <= tolerance + _MARGIN_OF_ERROR and reached > merit:
            best, merit = Thresholds(least[0], least[1], least[2], int(least[3])), reached
    return best


def _grid(values: Floats) -> Floats:
    """The values themselves where they are few, else their quantiles."""
    distinct = np.unique(values)
    if len(distinct) <= _STEPS:
        return distinct
    return np.unique(np.quantile(values, np.linspace(0, 1, _STEPS), method="lower"))


def _predicted(mask: Mask, gains: Floats, seed: int, resamples: int = 1000) -> Predicted:
    """Skip rate and loss, with a paired bootstrap over questions."""
    lost = np.where(mask, gains, 0.0)
    drawn = np.random.default_rng(seed).integers(0, len(lost), (resamples, len(lost)))
    low, high = np.quantile(lost[drawn].mean(axis=1), (0.025, 0.975)) * 100
    return Predicted(*(round(float(x), 4) for x in (mask.mean(), 100 * lost.mean(), low, high)))
