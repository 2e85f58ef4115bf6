"""Synthesis: where candidates disagree, an aggregator writes the answer from them.

This chooses the aggregator, checks that what it wrote is an answer, and finds whose answer it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from symmoe.aggregation.consensus import ConsensusRule, measure
from symmoe.aggregation.extraction import is_choice, is_number
from symmoe.aggregation.prompting import Fences, Prompt, Window, mentions, prompt_for
from symmoe.aggregation.reading import UNREAD, SemanticClusters, answer_in, failed, read
from symmoe.aggregation.vote import Case
from symmoe.types import Answer, AnswerKind, Assignment, Candidate, Consensus, Profiles, Query, Recruitment, Tally
from symmoe.types.quick import quick

CHANCE = 1 / 3
"""Of picking the right one of the task's three candidates."""
_PRIOR = 4.0
"""Tasks' worth of chance that every expert's record begins with."""


def best_aggregator(profiles: Profiles, kind: AnswerKind | None = None) -> str | None:
    """The expert with the best record of aggregating answers of one kind, or of all kinds for None.

    Records of few tasks are shrunk towards chance. None if nobody has a record.
    """
    counted = {
        name: [tally for k, tally in profile.aggregation.items() if kind in (None, k)]
        for name, profile in profiles.experts.items()
    }
    tallied = {name: tallies for name, tallies in counted.items() if tallies}
    return max(tallied, key=lambda name: _expected(tallied[name]), default=None)


def by_kind(profiles: Profiles, otherwise: str) -> Callable[[Query], str]:
    """A function that chooses the best on record for a query's kind, else over all kinds, else `otherwise`."""
    overall = best_aggregator(profiles) or otherwise
    best = {kind: best_aggregator(profiles, kind) or overall for kind in get_args(AnswerKind)}
    return lambda query: best[query.kind]


def _expected(tallies: Sequence[Tally]) -> float:
    right, asked = sum(t.right for t in tallies), sum(t.asked for t in tallies)
    return (right + CHANCE * _PRIOR) / (asked + _PRIOR)


def fault(reply: Candidate, case: Case, fences: Fences) -> str:
    """Why a synthesis cannot be the answer; empty if it can."""
    if reply.finish_reason == "error":
        return "the aggregator failed"
    if failed(reply):
        return "the aggregator wrote nothing"
    if mentions(reply.text, fences):
        return "the aggregator repeated its prompt"
    if reply.finish_reason == "length" and case.voted.finish_reason != "length":
        return "the aggregator's answer was cut off"
    answer, readable = answer_in(reply, case.query), [v.answer for v in case.voted.votes if v.answer != UNREAD]
    if answer == UNREAD and readable:
        return "no answer can be read in what the aggregator wrote"
    for form, name in ((is_choice, "choice"), (is_number, "number")):
        if readable and all(map(form, readable)) and not form(answer):
            return f"the aggregator's answer is no {name}, as every candidate's is"
    return ""


def synthesised(reply: Candidate, case: Case, why: str, clusters: SemanticClusters | None) -> Answer:
    """The synthesis as the answer, marked `novel` if no candidate gave it."""
    novel = _is_novel(reply, case, clusters)
    answer = replace(case.voted, text=reply.text, expert=reply.expert, finish_reason=reply.finish_reason)
    noted = f"{why}; no candidate gave this answer" if novel else why
    return _with_tokens(replace(answer, origin="synthesis", why=noted, novel=novel), reply)


def fallen_back(reply: Candidate | None, case: Case, why: str) -> Answer:
    """The vote's best candidate as the answer after a failed synthesis, whose tokens are added."""
    answer = replace(case.voted, origin="fallback", why=why)
    return answer if reply is None else _with_tokens(answer, reply)


def _is_novel(candidate: Candidate, case: Case, clusters: SemanticClusters | None) -> bool:
    readings = read(case.query, (candidate, *case.candidates), clusters)
    own_reading = next(reading for reading in readings if 0 in reading.members)
    return own_reading.members == (0,) or own_reading.answer == UNREAD


def _with_tokens(answer: Answer, candidate: Candidate) -> Answer:
    if candidate.shared:
        return answer
    return replace(
        answer,
        prompt_tokens=answer.prompt_tokens + candidate.prompt_tokens,
        completion_tokens=answer.completion_tokens + candidate.completion_tokens,
    )


SLOT = -1
"""The slot of an aggregator's assignment, which no recruited expert has."""

NO_ROOM = "question and candidates do not fit the aggregator's window"

When = Literal["auto", "always"]
_PARTS = (1.0, 0.6, 0.3)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """How answers are synthesised. `choose` names the aggregator of a query, an expert of the pool.

    `when` is "auto" to ask it where `rule` finds no consensus, or "always".
    """

    choose: Callable[[Query], str]
    when: When = "auto"
    rule: ConsensusRule = field(default_factory=ConsensusRule)
    window: Window = field(default_factory=Window)
    clusters: SemanticClusters | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an `aggregator` is asked about a case ("" if none is), and why."""

    case: Case
    consensus: Consensus
    why: str
    aggregator: str = ""

    @property
    def recruitment(self) -> Recruitment:
        """The aggregator's assignment, for the planner."""
        query = self.case.query.id
        return Recruitment(query, (Assignment(query, self.aggregator, SLOT),), {self.aggregator: 1.0})


@quick(frozen=True, slots=True)
class Settled:
    """One case's answer and the evidence for it."""

    case: Case
    answer: Answer
    consensus: Consensus | None = None
    synthesis: Candidate | None = None


def decide(synthesis: Synthesis, case: Case) -> Decision:
    """Decide whether an aggregator is asked about a case."""
    consensus = measure(case.candidates, case.verdicts, case.voted.votes)
    aggregator = synthesis.choose(case.query)
    if synthesis.when == "always":
        return Decision(case, consensus, "always aggregated", aggregator)
    if len(case.candidates) == 1:
        return Decision(case, consensus, "there is one candidate")
    why = synthesis.rule.why(consensus)
    return Decision(case, consensus, why, "" if synthesis.rule.reached(consensus) else aggregator)


def prompts(synthesis: Synthesis, case: Case, seed: int) -> Iterator[Prompt]:
    """The aggregator's prompt, then ever shorter ones in case the engine refuses it as too long."""
    for part in _PARTS:
        prompt = prompt_for(case, synthesis.window, seed, part)
        if prompt is None:
            return
        yield prompt


def settle(
    decision: Decision,
    prompt: Prompt | None = None,
    reply: Candidate | None = None,
    trouble: str = "",
    clusters: SemanticClusters | None = None,
) -> Settled:
    """The answer of a decided case. `reply` is the aggregator's to `prompt`; `trouble` says why there is none."""
    case, consensus = decision.case, decision.consensus
    if not decision.aggregator:
        return Settled(case, replace(case.voted, why=decision.why), consensus)
    if prompt is None or reply is None:
        return Settled(case, fallen_back(None, case, f"{decision.why}; {trouble}"), consensus)
    wrong = fault(reply, case, prompt.fences)
    answer = (
        fallen_back(reply, case, f"{decision.why}; {wrong}")
        if wrong
        else synthesised(reply, case, decision.why, clusters)
    )
    return Settled(case, answer, consensus, reply)
