"""Where candidates do not agree, an aggregator writes the answer from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from symmoe.aggregation.cases import Case
from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.consensus import ConsensusRule, measure
from symmoe.aggregation.judging import fallen_back, fault, synthesised
from symmoe.aggregation.prompting import Prompt, Window, prompt_for
from symmoe.types import Answer, Assignment, Candidate, Consensus, Query, Recruitment

SLOT = -1
"""The slot of an aggregator's assignment, which no recruited expert has."""

NO_ROOM = "question and candidates do not fit the aggregator's window"

When = Literal["auto", "always"]
_PARTS = (1.0, 0.6, 0.3)


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
    """What is to become of one case: whether an `aggregator` is asked (else `""`), and why."""

    case: Case
    consensus: Consensus
    why: str
    aggregator: str = ""

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


def decide(synthesis: Synthesis, case: Case) -> Decision:
    """Whether an aggregator is asked about a case."""
    consensus = measure(case.candidates, case.verdicts, case.voted.votes)
    aggregator = synthesis.choose(case.query)
    if synthesis.when == "always":
        return Decision(case, consensus, "always aggregated", aggregator)
    if len(case.candidates) == 1:
        return Decision(case, consensus, "there is one candidate")
    why = synthesis.rule.why(consensus)
    return Decision(case, consensus, why, "" if synthesis.rule.reached(consensus) else aggregator)


def prompts(synthesis: Synthesis, case: Case, seed: int) -> Iterator[Prompt]:
    """The aggregator's prompt, and after it ever shorter ones for an engine that refuses it as too long."""
    for part in _PARTS:
        prompt = prompt_for(case, synthesis.window, seed, part)
        if prompt is None:
            return
        yield prompt


def settle(
    decision: Decision,
    prompt: Prompt | None = None,
    said: Candidate | None = None,
    trouble: str = "",
    clusters: SemanticClusters | None = None,
) -> Settled:
    """The answer of a decided case. `said` is what the aggregator gave to `prompt`; where it is None, `trouble` says
    why there is nothing.
    """
    case, consensus = decision.case, decision.consensus
    if not decision.aggregator:
        return Settled(case, replace(case.voted, why=decision.why), consensus)
    if prompt is None or said is None:
        return Settled(case, fallen_back(None, case, f"{decision.why}; {trouble}"), consensus)
    wrong = fault(said, case, prompt.fences)
    answer = (
        fallen_back(said, case, f"{decision.why}; {wrong}")
        if wrong
        else synthesised(said, case, decision.why, clusters)
    )
    return Settled(case, answer, consensus, said)
