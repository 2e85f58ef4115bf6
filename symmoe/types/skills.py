"""What questions need, what experts have shown, and who is recruited for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from symmoe.types.questions import AnswerKind


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

    Facets are the answer format in the question's language, the answer format, and the language. `vector` is the
    question's embedding, a unit row of 32-bit floats, empty where none was made.
    """

    query_id: str
    matches: tuple[SkillMatch, ...]
    facets: tuple[str, ...] = ()
    vector: bytes = field(default=b"", repr=False, compare=False)


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
    over from similar experts when a newcomer was asked little. `aggregation` is its tally at making one answer of
    several, by kind of answer (`AnswerKind`); empty where it was not measured. `earned` is what it earned, 0..1, on
    each recorded question that it was asked.
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
    """A validation question as records keep it: the group that it is from (a subject, a family, a data set), its answer
    format, and its embedding, a signed byte for each dimension.
    """

    group: str
    format: str
    vector: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Belief:
    """How far votes are believed, learned from records.

    Experts err together: `n` of them count as `n / (1 + (n - 1) * overlap)` witnesses (Kish's design effect).
    `corrections[n - 1]` are a slope and an offset for the log-odds that n voters give their answer; the last stands for
    all beyond, and without any the log-odds are believed as they are. The default overlap is that of fifteen language
    models of at most 13B on MMLU-Pro.
    """

    overlap: float = 0.3
    corrections: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Trees:
    """Boosted trees that say how likely an answer is right: one leaf of each and `offset` add up to its log-odds.

    The nodes of all trees stand one after another, in columns; `roots` are where trees begin. A node goes `left` where
    its `feature` is at most `threshold`, or is unknown and `unknown_left`; a leaf has the feature -1. `experts` are
    those that are told apart by the last features.
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

    A topic whose questions share no facet has the parent `""`. `belief` is how far votes of these experts are believed.
    `questions` are the recorded questions by their identity, `embedder` is what embedded them. `verifier` judges these
    experts' answers, where one was trained that is better than the vote.
    """

    experts: Mapping[str, ExpertProfile]
    parents: Mapping[str, str] = field(default_factory=dict)
    belief: Belief = field(default_factory=Belief)
    questions: Mapping[str, RecordedQuestion] = field(default_factory=dict, repr=False)
    embedder: str = ""
    verifier: Trees | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One expert asked once. `slot` tells repeated draws of one expert apart: sampling is with replacement."""

    query_id: str
    expert: str
    slot: int


@dataclass(frozen=True, slots=True)
class Recruitment:
    """Who answers a query, and each expert's share of the recruiter's mass, best first; shares sum to one.

    `accuracies` are how likely each expert is right about this query, 0..1, where the recruiter can tell.
    """

    query_id: str
    assignments: tuple[Assignment, ...]
    shares: Mapping[str, float]
    accuracies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assessment:
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
    standings: tuple[Assessment, ...]
    costs: tuple[float, ...]
    note: str = ""
