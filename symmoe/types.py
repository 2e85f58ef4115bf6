"""Every value that travels between stages: frozen, slotted, JSON-able through `to_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Scorer = Literal["exact", "number", "choice", "math"]
AnswerKind = Literal["auto", "text", "number", "choice", "math"]
Lane = Literal["resident", "swap", "merged", "rebuild"]


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a suite: a question with its known answer."""

    id: str
    question: str
    answer: str
    family: str
    scorer: Scorer


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an expert is asked to generate. `temperature` 0 is greedy: equal prompts give equal answers."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """One question on its way through the pipeline. `kind` says how its answer is to be read."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    kind: AnswerKind = "auto"

    @property
    def text(self) -> str:
        """What the user asks: the last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Skill:
    """One entry of a taxonomy; `examples` are phrasings that call for it, `facet` the one that they share, if any."""

    name: str
    description: str
    examples: tuple[str, ...] = ()
    facet: str = ""


@dataclass(frozen=True, slots=True)
class SkillMatch:
    """A skill that a question needs, and the cosine similarity that says so."""

    skill: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Skills:
    """What one query needs: topics of the taxonomy, best first, and facets, most specific first.

    Facets are the answer format in the question's language, the answer format, and the language.
    """

    query_id: str
    matches: tuple[SkillMatch, ...]
    facets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """Validation answers that called for a skill. A graded answer counts in part as right and in part as wrong."""

    right: float
    wrong: float

    @property
    def asked(self) -> float:
        """How many answers were counted."""
        return self.right + self.wrong

    @property
    def score(self) -> float:
        """+1 for each right and −1 for each wrong answer (Symbolic-MoE, §3.1)."""
        return self.right - self.wrong


@dataclass(frozen=True, slots=True)
class ExpertProfile:
    """An expert's record: its tally on every skill, topics and facets alike, and over all.

    `tokens` is the mean length of an answer, 0 where unknown. `fingerprint` says which weights earned the record, and
    `date` when. `digests` name the sets of validation questions that were counted. `borrowed` are pseudo-counts taken
    over from similar experts when a newcomer was asked little.
    """

    expert: str
    skills: Mapping[str, Tally]
    overall: Tally
    tokens: float = 0.0
    fingerprint: str = ""
    date: str = ""
    digests: tuple[str, ...] = ()
    borrowed: Mapping[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profiles:
    """The records of a pool's experts. `parents` gives for each topic the facet that its validation questions share.

    A topic whose questions share no facet has the parent `""`.
    """

    experts: Mapping[str, ExpertProfile]
    parents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One expert asked once. `slot` tells repeated draws of one expert apart: sampling is with replacement."""

    query_id: str
    expert: str
    slot: int


@dataclass(frozen=True, slots=True)
class Recruitment:
    """Who answers a query, and each expert's share of the recruiter's mass, best first; shares sum to one."""

    query_id: str
    assignments: tuple[Assignment, ...]
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one expert stood for one query: its expected accuracy with a 95 % interval, and why it was chosen or not.

    `tokens` is what its answer is expected to cost. `evidence` is its tally on each skill that counted, heaviest first.
    """

    expert: str
    share: float
    value: float
    low: float
    high: float
    tokens: float
    chosen: bool
    why: str
    evidence: Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a recruiter chose as it did: the weight of each skill, and every expert's standing, best first.

    `costs[n - 1]` are the expected tokens of asking the first n experts.
    """

    query_id: str
    recruiter: str
    weights: Mapping[str, float]
    standings: tuple[Standing, ...]
    costs: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One generation: the query that words it, and every assignment that its outcome serves.

    Greedy generations of equal prompts are equal, so assignments that differ only in slot or in the query's id share
    one call.
    """

    expert: str
    query: Query
    serves: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """All the work of one expert: it is made ready once, then answers every call."""

    expert: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a batch, in the order in which they run; no expert appears twice."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine gave for one call."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert's answer to one query, and the lane by which that expert was ready.

    `shared` marks a candidate whose tokens were spent on another assignment.
    """

    query_id: str
    expert: str
    slot: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    lane: Lane
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """How an expert was made ready: by which lane, in how many seconds, moving how many bytes."""

    expert: str
    lane: Lane
    seconds: float
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The weight of one candidate in the vote: 0 for one that is no answer."""

    expert: str
    slot: int
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """One distinct answer among the candidates: its share of the weight, and the experts that gave it."""

    answer: str
    share: float
    experts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer to a query: its text, the expert whose words they are, and how the vote went, winner first."""

    query_id: str
    text: str
    expert: str
    votes: tuple[Vote, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """The evidence for one answer: what every stage decided."""

    query_id: str
    skills: tuple[SkillMatch, ...]
    shares: Mapping[str, float]
    recruited: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    answer: Answer
    facets: tuple[str, ...] = ()
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A query that cannot be served, and why."""

    query_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline gives: one trace or one refusal for every query, in order, and what it cost."""

    results: tuple[Trace | Refusal, ...]
    loads: tuple[Load, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def to_json(value: Any) -> dict[str, Any]:
    """A value of this module as plain JSON types."""
    return asdict(value)
