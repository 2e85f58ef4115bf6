"""What comes out: verdicts, answers, and the evidence for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from symmoe.types.skills import Explanation, SkillMatch
from symmoe.types.work import Candidate, Generation, Load, Observation

Origin = Literal["vote", "synthesis", "fallback"]
Way = Literal["named", "single", "aggregated"]
"""How an answer comes about: an expert whom the client named, one whom the recruiter trusts, or several together."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a reward model thinks of one answer; higher is better, and only answers to one query compare.

    `score` is None for an answer that cannot be judged, which ranks below every other; `note` says why, or what of an
    answer was judged. `objectives` are the model's raw ratings and `weights` what its scorer gave each for this prompt;
    both are empty for a model that gives one number.
    """

    score: float | None
    objectives: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The weight of one candidate in the vote: 0 for one that is no answer. `reward` is what a reward model thought."""

    expert: str
    slot: int
    weight: float
    reward: Reward | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One distinct answer among the candidates: its share of the weight, and the experts that gave it.

    `members` are the places, among the query's candidates, of all that gave it.
    """

    answer: str
    share: float
    experts: tuple[str, ...]
    members: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Consensus:
    """How far the candidates agree with the vote's winner. The draws of one expert are one opinion, split by answer.

    `share` is the winner's part of the opinions, `margin` its lead over the next answer with opinions weighed by the
    scorer, `agreement` how far experts that were drawn repeatedly agree with themselves (1 where none was), `opinions`
    the number of experts.
    """

    share: float
    margin: float
    agreement: float
    opinions: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer to a query: its text, the expert whose words they are, and how the vote went, winner first.

    `origin` says whether it is the vote's winner, a synthesis by the aggregator, or the vote's winner because a
    synthesis failed, and `why` by which figures or for which fault. `novel` marks a synthesis that gives an answer
    which no candidate gave.
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
    """Experts that were asked `beside` others who had not answered yet, as time was short.

    `why` is "late" where one of those took longer than it usually does, "deadline" where there was no time left to ask
    anybody after them. `seconds` is when, after the question's first expert was asked.
    """

    experts: tuple[str, ...]
    beside: tuple[str, ...]
    why: Literal["late", "deadline"]
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """The evidence for one answer: what every stage decided. `synthesis` is what the aggregator gave, if asked.

    Of the `recruited`, those asked have a candidate and a verdict; with `way` "single" that is the first alone.
    `posterior` is how likely the records say the vote's answer is right, where the recruiter could tell. `failed` are
    experts that were asked and could not answer, and why. `unheard` are those whose answers were not waited for, since
    others, asked beside them in `hedges`, had decided the vote.
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
        """The answer as it was generated, with the tokens of everything that it took."""
        answer, said = self.answer, self.candidates
        if answer.origin == "synthesis" and self.synthesis is not None:
            said = (self.synthesis, *said)
        words = next((each for each in said if (each.expert, each.text) == (answer.expert, answer.text)), None)
        tokens = answer.prompt_tokens, answer.completion_tokens
        given = Generation(
            answer.text,
            answer.finish_reason,
            *tokens,
            reasoning_tokens=sum(each.reasoning_tokens for each in said if not each.shared),
            expert=answer.expert,
        )
        if words is None:
            return given
        return replace(given, logprobs=words.logprobs, stop=words.stop, calls=words.calls, reasoning=words.reasoning)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A query that cannot be served, and why. `tokens` are those of its prompt that were made to find that out.

    `status` is what HTTP calls it: from 500 on, and 429, it is no fault of the query, and asking again after
    `retry_after` seconds may help. `elsewhere` says that another expert may be asked in this one's place. `failed` are
    the experts that were asked in vain, and why.
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
        """Whether the query itself is at fault, so that no other expert could serve it."""
        return self.status < 500 and self.status != 429 and not self.elsewhere


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline gives: one trace or one refusal for every query, in order, and what it cost."""

    results: tuple[Trace | Refusal, ...]
    loads: tuple[Load, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    observations: tuple[Observation, ...] = ()


def to_json(value: Any) -> dict[str, Any]:
    """A value of this module as plain JSON types."""
    return asdict(value)
