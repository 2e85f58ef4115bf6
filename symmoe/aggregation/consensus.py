"""Whether candidates agree so far that no aggregator need be asked (the consensus scorer of MOSAIC, calibrated)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from symmoe.aggregation.reading import UNREAD
from symmoe.types import Candidate, Consensus, Verdict, Vote


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least of each figure of a `Consensus` at which candidates are taken to agree.

    The defaults, for a pool on which none were fitted, ask for two experts or more who all say the same.
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
        """The figures that decided, in words."""
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

    Each expert has one opinion, which its draws share between them; its weight is the mean of their verdicts. Draws
    that share one greedy generation are copies, and say nothing of an expert's agreement with itself.
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


def _opinion(said: Sequence[int]) -> dict[int, float]:
    """Each answer's part of an expert's draws."""
    return {answer: count / len(said) for answer, count in Counter(said).items()}


def _margin(opinions: Sequence[Mapping[int, float]], weights: Sequence[float]) -> float:
    """The winner's lead; answer 0 is the winner."""
    overall = sum(weights)
    if overall <= 0:
        return 0.0
    held: dict[int, float] = defaultdict(float)
    for opinion, weight in zip(opinions, weights, strict=True):
        for answer, part in opinion.items():
            held[answer] += part * weight / overall
    return held[0] - max((part for answer, part in held.items() if answer != 0), default=0.0)


def _agreement(candidates: Sequence[Candidate], answers: Mapping[int, int], draws: Iterable[Sequence[int]]) -> float:
    """The mean, over experts that generated more than once, of the part of draws that give their commonest answer."""
    own = [[answers[place] for place in places if not candidates[place].shared] for places in draws]
    repeated = [max(_opinion(said).values()) for said in own if len(said) > 1]
    return sum(repeated) / len(repeated) if repeated else 1.0
