"""The weighted vote: equal answers add up, the heaviest wins."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.aggregation.equivalence import equal
from symmoe.aggregation.extraction import extract
from symmoe.protocols import Aggregator
from symmoe.types import Answer, Candidate, Query, Verdict, Vote

_UNREAD = ""


def aggregate(
    aggregator: Aggregator,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    verdicts: Sequence[Sequence[Verdict]],
) -> list[Answer]:
    """The stage: one answer for each query."""
    return [aggregator.aggregate(q, c, v) for q, c, v in zip(queries, candidates, verdicts, strict=True)]


class WeightedVote:
    """A plurality vote over extracted answers.

    The winner's text is that of its heaviest candidate. Ties go to the answer of the heaviest single candidate, then to
    the one recruited first. A candidate from which no answer can be read votes for itself, after all others.
    """

    def aggregate(self, query: Query, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Answer:
        """The one answer to `query`; needs at least one candidate."""
        groups = self._groups(query, candidates, verdicts)
        groups.sort(key=lambda group: (group[0] == _UNREAD, -sum(w for w, _ in group[1]), -max(w for w, _ in group[1])))
        overall = sum(verdict.weight for verdict in verdicts) or 1.0
        _, winner = max(groups[0][1], key=lambda member: member[0])
        return Answer(
            query_id=query.id,
            text=winner.text,
            expert=winner.expert,
            votes=tuple(
                Vote(
                    answer,
                    round(sum(w for w, _ in members) / overall, 4),
                    tuple(dict.fromkeys(c.expert for _, c in members)),
                )
                for answer, members in groups
            ),
            finish_reason=winner.finish_reason,
            prompt_tokens=sum(c.prompt_tokens for c in candidates if not c.shared),
            completion_tokens=sum(c.completion_tokens for c in candidates if not c.shared),
        )

    def _groups(
        self, query: Query, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]
    ) -> list[tuple[str, list[tuple[float, Candidate]]]]:
        groups: list[tuple[str, list[tuple[float, Candidate]]]] = []
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            found = extract(candidate.text, query.kind, query.text) or _UNREAD
            member = (verdict.weight, candidate)
            home = next((members for answer, members in groups if equal(answer, found, query.kind)), None)
            if home is None:
                groups.append((found, [member]))
            else:
                home.append(member)
        return groups
