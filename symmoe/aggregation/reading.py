"""Which candidates give the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from symmoe.aggregation.cleaning import visible, without_reasoning
from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.equivalence import equal
from symmoe.aggregation.extraction import extract, is_choice, is_number
from symmoe.tools import normalised
from symmoe.types import AnswerKind, Candidate, Query

UNREAD = ""
"""The answer of candidates from which none can be read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One distinct answer, and the places of the candidates that give it."""

    answer: str
    members: tuple[int, ...]


def read(query: Query, candidates: Sequence[Candidate], clusters: SemanticClusters | None = None) -> list[Reading]:
    """The distinct answers among candidates, in the order of their first; failed generations give none."""
    found: list[tuple[str, list[int]]] = []
    for place, candidate in enumerate(candidates):
        said = answer_in(candidate, query)
        home = next((members for answer, members in found if equal(answer, said, query.kind)), None)
        if home is None:
            found.append((said, [place]))
        else:
            home.append(place)
    readings = [Reading(answer, tuple(members)) for answer, members in found]
    if any(candidate.calls for candidate in candidates):  # other arguments are another call, however alike they read
        return readings
    return readings if clusters is None else _merged(readings, query.kind, candidates, clusters)


def answer_in(candidate: Candidate, query: Query) -> str:
    """What a candidate answers, in a comparable spelling, or `UNREAD`."""
    if candidate.finish_reason == "error":
        return UNREAD
    if candidate.calls:
        return normalised(candidate.calls)
    return extract(candidate.text, query.kind, query.text) or UNREAD


def failed(candidate: Candidate) -> bool:
    """Whether there is nothing at all in a candidate: its generation failed, or nothing visible came of it."""
    return candidate.finish_reason == "error" or not visible(candidate.text).strip()


def _merged(
    readings: list[Reading], kind: AnswerKind, candidates: Sequence[Candidate], clusters: SemanticClusters
) -> list[Reading]:
    """Free-form answers that say the same as one; by itself a text is compared with the marks and case it had.

    Letters and numbers are what was meant, however alike the texts around them are.
    """
    free = [reading.answer != UNREAD and not _exact(reading.answer) for reading in readings]
    if kind not in ("auto", "text") or sum(free) < 2:
        return readings
    first = [candidates[reading.members[0]] for reading in readings]
    texts = [
        without_reasoning(visible(each.text)) if is_free else UNREAD for each, is_free in zip(first, free, strict=True)
    ]
    return [
        Reading(readings[group[0]].answer, tuple(sorted(m for place in group for m in readings[place].members)))
        for group in clusters.cluster(texts)
    ]


def _exact(answer: str) -> bool:
    return is_choice(answer) or is_number(answer)
