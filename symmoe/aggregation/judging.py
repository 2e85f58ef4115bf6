"""Whether what an aggregator wrote is an answer, and whose answer it is."""

from __future__ import annotations

from dataclasses import replace

from symmoe.aggregation.cases import Case
from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.extraction import is_choice, is_number
from symmoe.aggregation.fences import Fences, mentions
from symmoe.aggregation.reading import UNREAD, answer_in, failed, read
from symmoe.types import Answer, Candidate


def fault(said: Candidate, case: Case, fences: Fences) -> str:
    """Why a synthesis cannot be the answer; empty if it can."""
    if said.finish_reason == "error":
        return "the aggregator failed"
    if failed(said):
        return "the aggregator wrote nothing"
    if mentions(said.text, fences):
        return "the aggregator repeated its prompt"
    if said.finish_reason == "length" and case.voted.finish_reason != "length":
        return "the aggregator's answer was cut off"
    answer, readable = answer_in(said, case.query), [v.answer for v in case.voted.votes if v.answer != UNREAD]
    if answer == UNREAD and readable:
        return "no answer can be read in what the aggregator wrote"
    for form, name in ((is_choice, "choice"), (is_number, "number")):
        if readable and all(map(form, readable)) and not form(answer):
            return f"the aggregator's answer is no {name}, as every candidate's is"
    return ""


def synthesised(said: Candidate, case: Case, why: str, clusters: SemanticClusters | None) -> Answer:
    """The synthesis as the answer. One that no candidate gave is kept, marked `novel`."""
    novel = _is_novel(said, case, clusters)
    answer = replace(case.voted, text=said.text, expert=said.expert, finish_reason=said.finish_reason)
    noted = f"{why}; no candidate gave this answer" if novel else why
    return _with_tokens(replace(answer, origin="synthesis", why=noted, novel=novel), said)


def fallen_back(said: Candidate | None, case: Case, why: str) -> Answer:
    """The best candidate by the vote, for a synthesis that failed; what that took is counted."""
    answer = replace(case.voted, origin="fallback", why=why)
    return answer if said is None else _with_tokens(answer, said)


def _is_novel(said: Candidate, case: Case, clusters: SemanticClusters | None) -> bool:
    readings = read(case.query, (said, *case.candidates), clusters)
    own = next(reading for reading in readings if 0 in reading.members)
    return own.members == (0,) or own.answer == UNREAD


def _with_tokens(answer: Answer, said: Candidate) -> Answer:
    if said.shared:
        return answer
    return replace(
        answer,
        prompt_tokens=answer.prompt_tokens + said.prompt_tokens,
        completion_tokens=answer.completion_tokens + said.completion_tokens,
    )
