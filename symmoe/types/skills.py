"""The skills that questions need, the records of experts, and the choice of experts for a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from symmoe.types.questions import AnswerKind
from symmoe.types.quick import quick


@dataclass(frozen=True, slots=True)
class Skill:
    """One entry of a taxonomy. `examples` are questions that need it; `facet` is the facet they all share, if any."""

    name: str
    description: str
    examples: tuple[str, ...] = ()
    facet: str = ""


@quick(frozen=True, slots=True)
class SkillMatch:
    """A skill that a question needs, with the cosine similarity between the two."""

    skill: str
    similarity: float


@quick(frozen=True, slots=True)
class Skills:
    """The skills of one query: topics of the taxonomy, best match first, and facets, most specific first.

    Facets are the answer format with the language of the question, the answer format, and the language. `vector` is the
    embedding of the question, a unit vector as the bytes of 32-bit floats; empty if none was computed.
    """

    query_id: str
    matches: tuple[SkillMatch, ...]
    facets: tuple[str, ...] = ()
    vector: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many validation answers on a skill were right and wrong. A partly right answer adds to both."""

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
    """An expert's record on validation questions: its tally on each skill, topics and facets alike, and overall.

    `tokens` is the mean length of its answers, 0 if unknown. `fingerprint` identifies the weights that were measured,
    `date` is the day. `digests` identify the sets of validation questions that were counted. `borrowed` are
    pseudo-counts by skill, taken from similar experts for a newcomer that answered few questions. `aggregation` is its
    tally at combining several answers into one, by kind of answer; empty if not measured. `earned` is its score, 0..1,
    on each recorded question that it answered, by the question's identity.
    """

    expert: str
    skills: Mapping[str, Tally]
    overall: Tally
    tokens: float = 0.0
    fingerprint: str = ""
    date: str = ""
    digests: tuple[str, ...] = ()
    borrowed: Mapping[str, Tally] = field(default_factory=dict)
    aggregation: Mapping[AnswerKind, Tally] = field(default_factory=dict)
    earned: Mapping[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class RecordedQuestion:
    """A validation question in records: its group (a subject, a family, a data set), its answer format, and its
    embedding, one signed byte for each dimension.
    """

    group: str
    format: str
    vector: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Belief:
    """How the probability that a vote is right follows from its voters; learned from records.

    Experts err together: `n` of them count as `n / (1 + (n - 1) * overlap)` independent ones (Kish's design effect).
    `corrections[n - 1]` are the slope and offset applied to the log-odds of an answer of n voters; the last pair also
    holds for more voters, and without any the log-odds stay as they are. The default overlap is that of fifteen
    language models of at most 13B on MMLU-Pro.
    """

    overlap: float = 0.3
    corrections: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Trees:
    """Boosted trees that give the log-odds that an answer is right: the sum of one leaf of each tree and `offset`.

    The columns hold the nodes of all trees in turn; `roots` are the indices of the first nodes. A node goes `left` if
    its `feature` is at most `threshold`, or is unknown and `unknown_left` is set, else `right`; a leaf has the feature
    -1 and a `value`. The last features are one for each of `experts`.
    """

    experts: tuple[str, ...]
    offset: float
    roots: tuple[int, ...]
    feature: tuple[int, ...] = field(repr=False)
    threshold: tuple[float, ...] = field(repr=False)
    unknown_left: tuple[int, ...] = field(repr=False)
    left: tuple[int, ...] = field(repr=False)
    right: tuple[int, ...] = field(repr=False)
    value: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Profiles:
    """The records of a pool's experts. `parents` gives for each topic the facet that its validation questions share.

    A topic whose questions share no facet has the parent `""`. `belief` is for votes of these experts. `questions` are
    the recorded questions by identity, and `embedder` names the embedder of their vectors. `verifier` judges these
    experts' answers; None if none was trained, or none that is better than the vote.
    """

    experts: Mapping[str, ExpertProfile]
    parents: Mapping[str, str] = field(default_factory=dict)
    belief: Belief = field(default_factory=Belief)
    questions: Mapping[str, RecordedQuestion] = field(default_factory=dict, repr=False)
    embedder: str = ""
    verifier: Trees | None = field(default=None, repr=False)


class Assignment(NamedTuple):
    """One request of a query to an expert. `slot` distinguishes repeated draws of an expert (with replacement).

    A tuple, since a batch looks each one up a dozen times.
    """

    query_id: str
    expert: str
    slot: int


@quick(frozen=True, slots=True)
class Recruitment:
    """The experts chosen for a query, and each expert's share of the recruiter's weight, best first; they sum to 1.

    `accuracies` are the probabilities, by expert, of a right answer; empty if the recruiter cannot estimate them.
    """

    query_id: str
    assignments: tuple[Assignment, ...]
    shares: Mapping[str, float]
    accuracies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assessment:
    """One expert considered for a query: its expected accuracy with a 95 % interval, and why it was chosen or not.

    `tokens` is the expected length of its answer. `evidence` is its tally on each skill that counted, the one with the
    most weight first.
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
    """Why a recruiter chose its experts: the weight of each skill, and the assessment of every expert, best first.

    `costs[n - 1]` are the expected tokens of asking the first n experts.
    """

    query_id: str
    recruiter: str
    weights: Mapping[str, float]
    standings: tuple[Assessment, ...]
    costs: tuple[float, ...]
    note: str = ""
