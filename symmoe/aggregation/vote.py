"""The weighted vote: equal answers add up and the heaviest wins; also how likely it is right, and whom to ask next.

Each expert supports its answer with the log-odds of its accuracy on this question against one of the other options
(Nitzan and Paroush 1982, for more than two options). Experts that err together are not independent, so the sum is
divided by the design effect of that many correlated witnesses (Kish 1965), and then calibrated on the records. Answers
that weak experts also give can be penalised (the text analogue of self-contrast between experts, SCMoE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from symmoe.aggregation.reading import UNREAD, SemanticClusters, failed, read
from symmoe.questions.families import options_of, support
from symmoe.types import Answer, Belief, Candidate, Query, Recruitment, Refusal, Verdict, Vote
from symmoe.types.quick import quick


@quick(frozen=True, slots=True)
class Case:
    """One query, its candidates, the scorer's verdicts on them, and the vote's answer."""

    query: Query
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    voted: Answer


def no_answer(query: Query, candidates: Sequence[Candidate]) -> Refusal | None:
    """Why there can be no answer if every candidate failed or is empty; None if any is usable."""
    if not all(map(failed, candidates)):
        return None
    outcomes = {c.expert: "failed" if c.finish_reason == "error" else "empty" for c in candidates}
    listed = ", ".join(f"{expert} ({why})" for expert, why in outcomes.items())
    message = f"none of its experts gave an answer: {listed or 'none was asked'}"
    return Refusal(query.id, "no_answer", message, status=503, retry_after=1.0, failed=outcomes)


class WeightedVote:
    """A plurality vote over extracted answers; with `clusters`, free-form texts that mean the same count as one answer.

    The winner's text is that of its heaviest candidate. Ties go to the answer of the heaviest single candidate, then to
    the one recruited first. Candidates without a readable answer form one group, ranked last. No candidate is dropped:
    the votes list every answer with the candidates that gave it. `contrast` is the strength of the penalty for answers
    that weak experts also give, 0 for none.
    """

    def __init__(self, clusters: SemanticClusters | None = None, contrast: float = 0.0) -> None:
        self._clusters, self._contrast = clusters, contrast

    def aggregate(self, query: Query, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Answer:
        """The answer to `query`; needs at least one candidate."""
        weights = [verdict.weight for _, verdict in zip(candidates, verdicts, strict=True)]
        readings = read(query, candidates, self._clusters)
        groups = [reading.members for reading in readings]
        totals = contrasted(weights, groups, self._contrast)
        heaviest = [max([weights[place] for place in group]) for group in groups]
        order = sorted(range(len(groups)), key=lambda n: (readings[n].answer == UNREAD, -totals[n], -heaviest[n]))
        overall = sum(totals) or 1.0
        winner = candidates[max(groups[order[0]], key=weights.__getitem__)]
        spent = [candidate for candidate in candidates if not candidate.shared]
        return Answer(
            query_id=query.id,
            text=winner.text,
            expert=winner.expert,
            votes=tuple(
                [
                    Vote(
                        readings[n].answer,
                        round(totals[n] / overall, 4),
                        tuple(dict.fromkeys([candidates[place].expert for place in groups[n]])),
                        groups[n],
                    )
                    for n in order
                ]
            ),
            finish_reason=winner.finish_reason,
            prompt_tokens=sum([candidate.prompt_tokens for candidate in spent]),
            completion_tokens=sum([candidate.completion_tokens for candidate in spent]),
        )


WEAK = 0.5
"""A candidate is a weak expert's if it weighs less than this part of the heaviest."""


def contrasted(weights: Sequence[float], groups: Sequence[Sequence[int]], strength: float) -> list[float]:
    """The weight of each group of candidates, less a penalty in proportion to the share of weak experts in it.

    No weight falls below 0. Weights are plain sums if `strength` is 0, no candidate is weak, or all would fall to 0.
    """
    totals = [sum([weights[place] for place in group]) for group in groups]
    if not strength:
        return totals
    weak = {place for place, weight in enumerate(weights) if 0 < weight < WEAK * max(weights)}
    if not weak:
        return totals
    whole = sum(totals)
    left = [
        max(0.0, total - strength * whole * len(weak & set(group)) / len(weak))
        for total, group in zip(totals, groups, strict=True)
    ]
    return left if any(left) else totals


WAVES = 3
"""In as many waves at most experts are asked, so that a batch loads each one as often at most."""
ALONE = 0.85
"""An expert is asked alone at first only where it is expected to be right so often. One answer by itself hardly tells
when it is wrong: on records of fifteen models that were asked in waves, waves that began with one cost a point more
than those that began with two, for as many calls."""
_CLOSE = 1e-4
_SLACK = 1e-9


@quick(frozen=True, slots=True)
class VoteState:
    """The state of a vote: the support and the weight of each answer, leading answer first.

    `voters` counts the experts whose answers could be read, `options` the possible answers. If the answers are
    `verified`, their weights are the probabilities that they are right.
    """

    supports: tuple[float, ...]
    weights: tuple[float, ...]
    voters: int
    options: int
    verified: bool = False

    def posterior(self, belief: Belief) -> float:
        """The probability that the leading answer is right; 0 where there is none."""
        if not self.supports:
            return 0.0
        if self.verified:
            return min(self.weights[0], 1.0)
        effective = 1 + (self.voters - 1) * belief.overlap
        raised = [math.exp(support / effective) for support in self.supports]
        share = raised[0] / (sum(raised) + max(self.options - len(raised), 0))
        return _corrected(min(max(share, _CLOSE), 1 - _CLOSE), self.voters, belief)

    def decided(self, left: float) -> bool:
        """Whether the leading answer wins whatever further experts, with a total weight of `left`, say."""
        if self.verified:
            return False  # an answer may change every weight
        return bool(self.weights) and self.weights[0] - max(self.weights[1:], default=0.0) > left + _SLACK

    def joined(self, support: float, weight: float) -> VoteState:
        """The state of the vote if one more expert gave the leading answer."""
        supports = self.supports or (0.0,)
        weights = supports if self.verified or not self.weights else self.weights
        first = (supports[0] + support,), (weights[0] + weight,)
        return VoteState((*first[0], *supports[1:]), (*first[1], *weights[1:]), self.voters + 1, self.options)


def vote_state(
    query: Query,
    recruitment: Recruitment,
    verdicts: Sequence[Verdict],
    votes: Sequence[Vote],
    verified: bool = False,
) -> VoteState:
    """The state of the vote on a query's answers."""
    options, accuracies = options_of(query.text), recruitment.accuracies
    read = [vote for vote in votes if vote.answer != UNREAD]
    supports = [sum([support(accuracies.get(expert, 0.0), options) for expert in vote.experts]) for vote in read]
    weights = [sum([verdicts[place].weight for place in vote.members]) for vote in read]
    voters = sum([len(vote.experts) for vote in read])
    return VoteState(tuple(supports), tuple(weights), voters, options, verified)


def next_wave(state: VoteState, left: Sequence[tuple[float, float]], quality: float, belief: Belief, waves: int) -> int:
    """How many of the remaining experts, given in `left` with their supports and weights, to ask next.

    The first wave asks two, or one if that is right with a probability of `ALONE` or more. Later waves ask none if the
    leading answer is right with probability `quality` or wins anyway, else as many as could bring that about by all
    agreeing with it: asking fewer would only cost a further wave. After `WAVES - 1` waves, all are asked.
    """
    if waves and _enough(state, left, quality, belief):
        return 0
    if waves >= WAVES - 1:
        return len(left)
    for count in range(1, len(left)):
        state = state.joined(*left[count - 1])
        doubtful = not waves and count == 1 and quality > 0 and state.posterior(belief) < ALONE
        if not doubtful and _enough(state, left[count:], quality, belief):
            return count
    return len(left)


def _enough(state: VoteState, left: Sequence[tuple[float, float]], quality: float, belief: Belief) -> bool:
    return not left or state.posterior(belief) >= quality or state.decided(sum(weight for _, weight in left))


def _corrected(share: float, voters: int, belief: Belief) -> float:
    if not belief.corrections:
        return share
    slope, offset = belief.corrections[min(voters, len(belief.corrections)) - 1]
    return 1 / (1 + math.exp(-(slope * math.log(share / (1 - share)) + offset)))
