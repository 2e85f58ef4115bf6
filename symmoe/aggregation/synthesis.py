"""Where candidates do not agree, an aggregator writes the answer from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from symmoe.aggregation.cases import Case
from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.consensus import ConsensusRule, measure
from symmoe.aggregation.judging import fallen_back, fault, synthesised
from symmoe.aggregation.prompting import Prompt, Window, prompt_for
from symmoe.types import Answer, Assignment, Candidate, Consensus, Query, Recruitment, Refusal

SLOT = -1
"""The slot of an aggregator's assignment, which no recruited expert has."""

When = Literal["auto", "always"]
Refuse = Callable[[Sequence[Query]], list[Refusal | None]]
_PARTS = (1.0, 0.6, 0.3)
_NO_ROOM = "question and candidates do not fit the aggregator's window"


@dataclass(frozen=True, slots=True)
class Synthesis:
    """How answers are synthesised. `choose` names the aggregator of a query, an expert of the pool.

    `when` "auto" asks it where `rule` finds no consensus, "always" for every query.
    """

    choose: Callable[[Query], str]
    when: When = "auto"
    rule: ConsensusRule = field(default_factory=ConsensusRule)
    window: Window = field(default_factory=Window)
    clusters: SemanticClusters | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one case: a prompt for `aggregator`, or none, and why."""

    case: Case
    consensus: Consensus
    why: str
    aggregator: str = ""
    prompt: Prompt | None = None

    @property
    def recruitment(self) -> Recruitment:
        """The aggregator's assignment, as the planner takes it."""
        query = self.case.query.id
        return Recruitment(query, (Assignment(query, self.aggregator, SLOT),), {self.aggregator: 1.0})


@dataclass(frozen=True, slots=True)
class Settled:
    """One case's answer and the evidence for it."""

    case: Case
    answer: Answer
    consensus: Consensus | None = None
    synthesis: Candidate | None = None


def decide(synthesis: Synthesis, cases: Sequence[Case], seed: int, refuse: Refuse) -> list[Decision]:
    """Which cases an aggregator is asked about, and the prompts: those that `refuse` refuses are made shorter."""
    decisions = [_decision(synthesis, case) for case in cases]
    waiting = [place for place, decision in enumerate(decisions) if decision.aggregator]
    for part in _PARTS:
        prompts = {place: prompt_for(decisions[place].case, synthesis.window, seed, part) for place in waiting}
        worded = {place: prompt for place, prompt in prompts.items() if prompt is not None}
        refusals = dict(zip(worded, refuse([prompt.query for prompt in worded.values()]), strict=True))
        for place, prompt in worded.items():
            if refusals[place] is None:
                decisions[place] = replace(decisions[place], prompt=prompt)
        waiting = [place for place in worded if refusals[place] is not None]
    return decisions


def settle(decision: Decision, said: Candidate | None, trouble: str, clusters: SemanticClusters | None) -> Settled:
    """The answer of a decided case. `said` is the aggregator's, None if there is none; `trouble` then says why."""
    case, consensus = decision.case, decision.consensus
    if not decision.aggregator:
        return Settled(case, replace(case.voted, why=decision.why), consensus)
    if decision.prompt is None or said is None:
        why = trouble if decision.prompt else _NO_ROOM
        return Settled(case, fallen_back(None, case, f"{decision.why}; {why}"), consensus)
    wrong = fault(said, case, decision.prompt.fences)
    answer = (
        fallen_back(said, case, f"{decision.why}; {wrong}")
        if wrong
        else synthesised(said, case, decision.why, clusters)
    )
    return Settled(case, answer, consensus, said)


def _decision(synthesis: Synthesis, case: Case) -> Decision:
    consensus = measure(case.candidates, case.verdicts, case.voted.votes)
    aggregator = synthesis.choose(case.query)
    if synthesis.when == "always":
        return Decision(case, consensus, "always aggregated", aggregator)
    if len(case.candidates) == 1:
        return Decision(case, consensus, "there is one candidate")
    why = synthesis.rule.why(consensus)
    return Decision(case, consensus, why, "" if synthesis.rule.reached(consensus) else aggregator)
