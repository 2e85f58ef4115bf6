"""Records and needs: short ways to write them, and hypothesis strategies that make them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from symmoe.protocols import Recruiter
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiters.published import PublishedCodeRecruiter, PublishedRecruiter
from symmoe.types import ExpertProfile, Profiles, Query, Recruitment, SkillMatch, Skills, Tally
from tests.fakes import query

RULES = (PublishedRecruiter, PublishedCodeRecruiter, PosteriorRecruiter)
Rule = type[PublishedRecruiter] | type[PosteriorRecruiter]
TOPICS = ("sums", "dates", "spanish", "sorting", "maps")
NUMBER = "format: number"
NUMBER_IN_ENGLISH = "format: number in english"
CODE = "format: code"
NUMBERS = (NUMBER_IN_ENGLISH, NUMBER, "language: english")
FACETS = (*NUMBERS, CODE)


def record(
    expert: str,
    tallies: Mapping[str, tuple[float, float]],
    overall: tuple[float, float] | None = None,
    tokens: float = 0.0,
) -> ExpertProfile:
    """A profile of `(right, wrong)` pairs; over all it is their sum if nothing else is said."""
    skills = {skill: Tally(*pair) for skill, pair in tallies.items()}
    summed = (sum(t.right for t in skills.values()), sum(t.wrong for t in skills.values()))
    return ExpertProfile(expert, skills, Tally(*(overall or summed)), tokens)


def pool(*records: ExpertProfile, parents: Mapping[str, str] | None = None) -> Profiles:
    """Profiles whose topics are the names without a colon; a topic that `parents` leaves out shares no facet."""
    topics = {skill for each in records for skill in each.skills if ":" not in skill}
    return Profiles({each.expert: each for each in records}, {**dict.fromkeys(sorted(topics), ""), **(parents or {})})


THREE = pool(
    record("good", {"sums": (90, 10), NUMBER: (90, 10)}, tokens=300),
    record("fair", {"sums": (80, 20), NUMBER: (80, 20)}, tokens=100),
    record("poor", {"sums": (20, 80), NUMBER: (20, 80)}, tokens=50),
)


def needs(ident: str = "q", facets: tuple[str, ...] = (), /, **similarities: float) -> Skills:
    """What a query needs: `needs("q", NUMBERS, sums=0.8)`."""
    ranked = sorted(similarities.items(), key=lambda item: -item[1])
    return Skills(ident, tuple(SkillMatch(skill, similarity) for skill, similarity in ranked), facets)


def asked_alone(recruiter: Recruiter, needed: Skills, k: int = 3, seed: int = 0, text: str = "text") -> Recruitment:
    """The recruitment of one query in a batch of its own."""
    (found,) = recruiter.recruit([query(text, needed.query_id)], [needed], k, seed)
    return found


def experts_of(recruitment: Recruitment) -> list[str]:
    """The experts recruited, in the order of their slots."""
    return [assignment.expert for assignment in recruitment.assignments]


@dataclass(frozen=True, slots=True)
class Case:
    """A pool of records, a query with its needs, and how recruiting is set."""

    profiles: Profiles
    query: Query
    skills: Skills
    k: int
    seed: int
    fallback: str | None

    def recruiter(self, rule: Rule, profiles: Profiles | None = None) -> Recruiter:
        """The rule over this case's records, or over others."""
        return rule(profiles or self.profiles, fallback=self.fallback)


halves = st.integers(0, 60).map(lambda count: count / 2)
tallies = st.builds(Tally, halves, halves)
chains = st.sampled_from([(), NUMBERS, (CODE + " in german", CODE, "language: german"), ("format: ode",)])


@st.composite
def profiles_of(draw: st.DrawFn, most: int = 6, least: int = 1) -> Profiles:
    """Experts of random records on a handful of skills, some without any; the first has at least one."""
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=least, max_size=most, unique=True))
    records = {}
    for place, name in enumerate(names):
        known = draw(st.dictionaries(st.sampled_from(TOPICS + FACETS), tallies, min_size=place == 0, max_size=6))
        records[name] = ExpertProfile(name, known, draw(tallies), draw(st.sampled_from([0.0, 40.0, 90.5, 300.0])))
    parents = draw(st.fixed_dictionaries({topic: st.sampled_from(("", *FACETS)) for topic in TOPICS}))
    return Profiles(records, parents)


@st.composite
def skills_of(draw: st.DrawFn, ident: str = "q") -> Skills:
    """Up to seven topics, best first, also some that nobody was asked about, and the facets of a question."""
    named = draw(st.lists(st.sampled_from((*TOPICS, "cooking", "chess")), unique=True, max_size=7))
    cosines = sorted((draw(st.integers(30, 90)) / 100 for _ in named), reverse=True)
    return Skills(ident, tuple(map(SkillMatch, named, cosines)), draw(chains))


@st.composite
def cases(draw: st.DrawFn, most: int = 6) -> Case:
    """Everything that a recruitment depends on."""
    profiles = draw(profiles_of(most))
    fallback = draw(st.none() | st.sampled_from(sorted(profiles.experts)))
    text = draw(st.text(max_size=8))
    return Case(
        profiles, query(text), draw(skills_of()), draw(st.integers(1, 8)), draw(st.integers(0, 999_999)), fallback
    )
