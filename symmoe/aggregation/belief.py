"""How likely the vote's answer is right, and how many more experts that is worth asking.

Each expert that gives an answer supports it with the log-odds of its accuracy on this question against one of the other
options (Nitzan and Paroush 1982, for more than two options). Experts that err together are not independent, so the sum
is divided by the design effect of as many correlated witnesses (Kish 1965), and corrected as records showed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from symmoe.aggregation.reading import UNREAD
from symmoe.questions.options import options_of, support
from symmoe.types import Belief, Query, Recruitment, Verdict, Vote

WAVES = 3
"""In as many waves at most experts are asked, so that a batch loads each one as often at most."""
ALONE = 0.85
"""An expert is asked alone at first only where it is expected to be right so often. One answer by itself hardly tells
when it is wrong: on records of fifteen models that were asked in waves, waves that began with one cost a point more
than those that began with two, for as many calls."""
_CLOSE = 1e-4
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class VoteState:
    """How a vote stands, its leading answer first: what supports each answer, and what each weighs in the vote.

    `voters` are the experts of whom an answer could be read, `options` the answers that there could be. Where answers
    are `verified`, they weigh how likely they are right.
    """

    supports: tuple[float, ...]
    weights: tuple[float, ...]
    voters: int
    options: int
    verified: bool = False

    def posterior(self, belief: Belief) -> float:
        """How likely the leading answer is right, 0 where there is none."""
        if not self.supports:
            return 0.0
        if self.verified:
            return min(self.weights[0], 1.0)
        effective = 1 + (self.voters - 1) * belief.overlap
        raised = [math.exp(support / effective) for support in self.supports]
        share = raised[0] / (sum(raised) + max(self.options - len(raised), 0))
        return _corrected(min(max(share, _CLOSE), 1 - _CLOSE), self.voters, belief)

    def decided(self, left: float) -> bool:
        """Whether the leading answer wins whatever further experts, who weigh `left` together, say."""
        if self.verified:
            return False  # an answer may change everybody's standing
        return bool(self.weights) and self.weights[0] - max(self.weights[1:], default=0.0) > left + _SLACK

    def joined(self, support: float, weight: float) -> VoteState:
        """How the vote would stand if one more expert gave the leading answer."""
        supports = self.supports or (0.0,)
        weights = supports if self.verified or not self.weights else self.weights
        first = (supports[0] + support,), (weights[0] + weight,)
        return VoteState((*first[0], *supports[1:]), (*first[1], *weights[1:]), self.voters + 1, self.options)


def standing(
    query: Query,
    recruitment: Recruitment,
    verdicts: Sequence[Verdict],
    votes: Sequence[Vote],
    verified: bool = False,
) -> VoteState:
    """How a vote on the answers to a query stands."""
    options = options_of(query.text)
    read = [vote for vote in votes if vote.answer != UNREAD]
    return VoteState(
        tuple(
            sum(support(recruitment.accuracies.get(expert, 0.0), options) for expert in vote.experts) for vote in read
        ),
        tuple(sum(verdicts[place].weight for place in vote.members) for vote in read),
        sum(len(vote.experts) for vote in read),
        options,
        verified,
    )


def further(now: VoteState, left: Sequence[tuple[float, float]], quality: float, belief: Belief, waves: int) -> int:
    """How many of the experts that are `left`, each with its support and its weight, are asked next.

    Somebody always is at first, two unless the first is good enough `ALONE`; later none where the leading answer is
    believed to be right with `quality`, or wins anyway. Else as many as could bring it there if they all agreed with
    it: to ask fewer would only cost a further wave. After `WAVES - 1` waves, all.
    """
    if waves and _enough(now, left, quality, belief):
        return 0
    if waves >= WAVES - 1:
        return len(left)
    for count in range(1, len(left)):
        now = now.joined(*left[count - 1])
        doubtful = not waves and count == 1 and quality > 0 and now.posterior(belief) < ALONE
        if not doubtful and _enough(now, left[count:], quality, belief):
            return count
    return len(left)


def _enough(now: VoteState, left: Sequence[tuple[float, float]], quality: float, belief: Belief) -> bool:
    return not left or now.posterior(belief) >= quality or now.decided(sum(weight for _, weight in left))


def _corrected(share: float, voters: int, belief: Belief) -> float:
    if not belief.corrections:
        return share
    slope, offset = belief.corrections[min(voters, len(belief.corrections)) - 1]
    return 1 / (1 + math.exp(-(slope * math.log(share / (1 - share)) + offset)))
