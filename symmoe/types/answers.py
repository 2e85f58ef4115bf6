"""The results of a query: rewards, verdicts and votes on its candidates, the answer, and its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from symmoe.types.quick import quick
from symmoe.types.skills import Explanation, SkillMatch
from symmoe.types.work import Candidate, Generation, Load, Observation

Origin = Literal["vote", "synthesis", "fallback"]
Way = Literal["named", "single", "aggregated"]
"""Who answers a query: the expert that the client `named`, a `single` one that is trusted, or several `aggregated`."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model's rating of one answer. Higher is better; only scores of answers to the same query compare.

    `score` is None for an answer that cannot be judged, which ranks below every other; `note` says why, or which part
    of the answer was judged. `objectives` are the model's raw ratings by name, and `weights` the weight of each for
    this prompt; both are empty for a model that gives one number.
    """

    score: float | None
    objectives: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@quick(frozen=True, slots=True)
class Verdict:
    """One candidate's weight in the vote, 0 if it holds no answer. `reward` is the reward model's rating, if any."""

    expert: str
    slot: int
    weight: float
    reward: Reward | None = None


@quick(frozen=True, slots=True)
class Vote:
    """One distinct answer: its `share` of all weight, 0..1, and the experts that gave it.

    `members` are the indices of the candidates that gave it, among all candidates of the query.
    """

    answer: str
    share: float
    experts: tuple[str, ...]
    members: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Consensus:
    """How far the candidates agree with the winner of the vote. Every expert counts once, divided among its draws.

    `share` is the winner's share of the experts, 0..1, and `opinions` their number. `margin` is its lead over the next
    answer when experts are weighted by their verdicts, -1..1. `agreement` is the mean share of an expert's draws that
    give its commonest answer, over experts that generated more than once; 1 if none did.
    """

    share: float
    margin: float
    agreement: float
    opinions: int


@quick(frozen=True, slots=True)
class Answer:
    """The answer to a query: its text, the expert that wrote it, and the votes, the winner first.

    `origin` is "vote" for the winner of the vote, "synthesis" for the aggregator's answer, "fallback" for the winner
    because the synthesis could not be used; `why` gives the figures or the fault that decided. `novel` marks a
    synthesis that gives an answer which no candidate gave.
    """

    query_id: str
    text: str
    expert: str
    votes: tuple[Vote, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    origin: Origin = "vote"
    why: str = ""
    novel: bool = False


@dataclass(frozen=True, slots=True)
class Hedge:
    """Experts that were asked while the experts `beside` had not answered yet.

    `why` is "late" if one of those took longer than usual, "deadline" if no time was left to ask others after them.
    `seconds` is the time from the first request for the query to this one.
    """

    experts: tuple[str, ...]
    beside: tuple[str, ...]
    why: Literal["late", "deadline"]
    seconds: float


@quick(frozen=True, slots=True)
class Trace:
    """The evidence for one answer: what every stage decided. `synthesis` is the aggregator's candidate, if any.

    `recruited` are all experts chosen for the query; those asked have a candidate and a verdict, with `way` "single"
    only the first. `posterior` is the probability that the vote's answer is right by the experts' records, None if the
    recruiter cannot estimate it. `failed` gives, by expert, why it could not answer. `unheard` are experts whose answer
    was not awaited, because others, asked beside them in `hedges`, had decided the vote.
    """

    query_id: str
    skills: tuple[SkillMatch, ...]
    shares: Mapping[str, float]
    recruited: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    answer: Answer
    facets: tuple[str, ...] = ()
    explanation: Explanation | None = None
    consensus: Consensus | None = None
    synthesis: Candidate | None = None
    way: Way = "aggregated"
    posterior: float | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    hedges: tuple[Hedge, ...] = ()
    unheard: tuple[str, ...] = ()

    @property
    def given(self) -> Generation:
        """The answer as a generation, with the tokens of everything that was generated for it."""
        answer, candidates = self.answer, self.candidates
        if answer.origin == "synthesis" and self.synthesis is not None:
            candidates = (self.synthesis, *candidates)
        words = next((each for each in candidates if (each.expert, each.text) == (answer.expert, answer.text)), None)
        tokens = answer.prompt_tokens, answer.completion_tokens
        generation = Generation(
            answer.text,
            answer.finish_reason,
            *tokens,
            reasoning_tokens=sum(each.reasoning_tokens for each in candidates if not each.shared),
            expert=answer.expert,
        )
        if words is None:
            return generation
        return replace(
            generation, logprobs=words.logprobs, stop=words.stop, calls=words.calls, reasoning=words.reasoning
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A query that cannot be served, and why. `tokens` is how many tokens of its prompt were encoded.

    `status` is the HTTP status: with 429, or 500 and above, the query is not at fault, and it may succeed after
    `retry_after` seconds. `elsewhere` says that another expert may serve it. `failed` gives, by expert that was asked,
    why it could not answer.
    """

    query_id: str
    code: str
    message: str
    tokens: int = 0
    status: int = 400
    retry_after: float | None = None
    elsewhere: bool = False
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_query(self) -> bool:
        """Whether the query is at fault, so that no other expert could serve it."""
        return self.status < 500 and self.status != 429 and not self.elsewhere


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a pipeline run: a trace or a refusal for every query, in order, its loads, and seconds by stage."""

    results: tuple[Trace | Refusal, ...]
    loads: tuple[Load, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    observations: tuple[Observation, ...] = ()


def to_json(value: Any) -> dict[str, Any]:
    """Any dataclass of `symmoe.types`, nested ones included, as plain JSON types."""
    return asdict(value)
