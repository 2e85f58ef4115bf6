"""The weighted vote: equal answers add up, the heaviest wins."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.contrast import contrasted
from symmoe.aggregation.reading import UNREAD, read
from symmoe.protocols import Aggregator
from symmoe.types import Answer, Candidate, Query, Verdict, Vote


def aggregate(
    aggregator: Aggregator,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    verdicts: Sequence[Sequence[Verdict]],
) -> list[Answer]:
    """The stage: one answer for each query."""
    return [aggregator.aggregate(q, c, v) for q, c, v in zip(queries, candidates, verdicts, strict=True)]


class WeightedVote:
    """A plurality vote over extracted answers; with `clusters`, free-form texts that say the same count as one.

    The winner's text is that of its heaviest candidate. Ties go to the answer of the heaviest single candidate, then to
    the one recruited first. Candidates from which no answer can be read stand together, after all others. No candidate
    is dropped: the votes hold every answer with all that gave it. `contrast` is the strength of the penalty for answers
    that weak experts also give, 0 for none.
    """

    def __init__(self, clusters: SemanticClusters | None = None, contrast: float = 0.0) -> None:
        self._clusters, self._contrast = clusters, contrast

    def aggregate(self, query: Query, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Answer:
        """The one answer to `query`; needs at least one candidate."""
        weights = [verdict.weight for _, verdict in zip(candidates, verdicts, strict=True)]
        readings = read(query, candidates, self._clusters)
        totals = contrasted(weights, [reading.members for reading in readings], self._contrast)
        heaviest = [max(weights[place] for place in reading.members) for reading in readings]
        order = sorted(range(len(readings)), key=lambda n: (readings[n].answer == UNREAD, -totals[n], -heaviest[n]))
        overall = sum(totals) or 1.0
        winner = candidates[max(readings[order[0]].members, key=lambda place: weights[place])]
        return Answer(
            query_id=query.id,
            text=winner.text,
            expert=winner.expert,
            votes=tuple(
                Vote(
                    readings[n].answer,
                    round(totals[n] / overall, 4),
                    tuple(dict.fromkeys(candidates[place].expert for place in readings[n].members)),
                    readings[n].members,
                )
                for n in order
            ),
            finish_reason=winner.finish_reason,
            prompt_tokens=sum(c.prompt_tokens for c in candidates if not c.shared),
            completion_tokens=sum(c.completion_tokens for c in candidates if not c.shared),
        )
