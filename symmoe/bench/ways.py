"""The ways of answering that `symmoe bench quality` compares, under the same sampling settings, and what each costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from symmoe.aggregation.choosing import best_aggregator
from symmoe.aggregation.vote import WeightedVote
from symmoe.build import Assembly, build_recruiter
from symmoe.config import SamplingConfig
from symmoe.pipeline import Watch, answer
from symmoe.planning.grouping import plan
from symmoe.policy import policy_for
from symmoe.profiles.aggregators import references
from symmoe.profiles.grading import as_query, gathered, is_right
from symmoe.types import Assignment, Candidate, Message, Profiles, Query, Question, Recruitment, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Spent:
    """Generations and their tokens, and the seconds of loading and generating.

    A generation that serves several draws (greedy, equal prompts) counts once.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to each question, in order, and what all of them cost."""

    texts: tuple[str, ...]
    spent: Spent


def spent_on(candidates: Iterable[Candidate], seconds: float) -> Spent:
    """The cost of candidates that were generated in `seconds`: shared ones and those refused cost nothing."""
    own = [candidate for candidate in candidates if not candidate.shared and candidate.finish_reason != "error"]
    prompt = sum(candidate.prompt_tokens for candidate in own)
    return Spent(len(own), prompt, sum(candidate.completion_tokens for candidate in own), seconds)


Draw = tuple[str, int]
"""An expert and which of its draws for the question."""


class Contest:
    """Questions as users would ask them, every way under the same `sampling`, `k` and seed.

    What two ways ask alike is generated once and charged to both, with the seconds that it took.
    """

    def __init__(
        self,
        assembly: Assembly,
        questions: Sequence[Question],
        sampling: SamplingConfig,
        k: int,
        seed: int,
        watch: Watch = Watch(),  # noqa: B008  (frozen)
        aggregator: str | None = None,
    ) -> None:
        self.assembly, self.questions, self.sampling = assembly, tuple(questions), sampling
        self.k, self.seed, self.watch = k, seed, watch
        self.queries = tuple(as_query(question, sampling) for question in questions)
        self._aggregator = aggregator
        self._asked: dict[tuple[tuple[Query, ...], tuple[tuple[Draw, ...], ...]], tuple[list[Candidate], Spent]] = {}

    @property
    def aggregator(self) -> str:
        """The one expert that aggregates for every way that needs one: the one named, else the best on record."""
        return self._aggregator or fixed_aggregator(self.assembly.profiles())

    def ask(self, queries: Sequence[Query], chosen: Sequence[Sequence[Draw]]) -> tuple[list[list[Candidate]], Spent]:
        """The candidates of each query, in the order of its draws. Grouped: every expert is made ready once."""
        key = (tuple(queries), tuple(tuple(draws) for draws in chosen))
        if key not in self._asked:
            self._asked[key] = self._run(*key)
        candidates, spent = self._asked[key]
        found = iter(candidates)
        return [[next(found) for _ in draws] for draws in chosen], spent

    def ask_all(self, experts: Sequence[str]) -> tuple[list[list[Candidate]], Spent]:
        """Every question once to each of these experts."""
        return self.ask(self.queries, [[(expert, 0) for expert in experts]] * len(self.queries))

    def warm_up(self) -> float:
        """Make every expert ready once, so that no way pays for another's first loads; seconds."""
        began = time.perf_counter()
        hello = Query("warm-up", (Message("user", "Hello"),), replace(self.queries[0].sampling, max_tokens=1))
        everyone = tuple(Assignment(hello.id, name, 0) for name in self.assembly.pool.names)
        gathered(
            self.assembly.executor,
            plan([hello], [Recruitment(hello.id, everyone, {})], self.assembly.models),
            self.watch,
        )
        return time.perf_counter() - began

    def _run(self, queries: tuple[Query, ...], chosen: tuple[tuple[Draw, ...], ...]) -> tuple[list[Candidate], Spent]:
        began = time.perf_counter()
        assigned = [[Assignment(q.id, *draw) for draw in draws] for q, draws in zip(queries, chosen, strict=True)]
        alone = [Recruitment(q.id, tuple(mine), {}) for q, mine in zip(queries, assigned, strict=True)]
        steps = plan(queries, alone, self.assembly.models, seed=self.seed)
        found = {
            Assignment(candidate.query_id, candidate.expert, candidate.slot): candidate
            for candidate in gathered(self.assembly.executor, steps, self.watch)
        }
        in_order = [found[assignment] for mine in assigned for assignment in mine]
        return in_order, spent_on(found.values(), time.perf_counter() - began)


class Way(Protocol):
    """One way of answering all questions of a contest."""

    def answer(self, contest: Contest) -> Answered:
        """The answers, in the order of the questions, and what they cost as if no other way had run."""
        ...


def by_record(profiles: Profiles) -> list[str]:
    """Experts by their overall validation accuracy, best first; equal ones in the pool's order."""
    overall = {name: profile.overall for name, profile in profiles.experts.items()}
    return sorted(overall, key=lambda name: -(overall[name].right + 1) / (overall[name].asked + 2))


def fixed_aggregator(profiles: Profiles) -> str:
    """The one expert that aggregates: the best on record at it, or, where no such record is, the best solver."""
    return best_aggregator(profiles) or by_record(profiles)[0]


def plurality(queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]) -> tuple[str, ...]:
    """The answer that most candidates of each query give; ties go to the one asked first."""
    vote = WeightedVote()
    verdicts = [[Verdict(c.expert, c.slot, float(c.finish_reason != "error")) for c in each] for each in candidates]
    return tuple(vote.aggregate(q, c, v).text for q, c, v in zip(queries, candidates, verdicts, strict=True))


def synthesise(
    contest: Contest, way: str, aggregator: str, candidates: Sequence[Sequence[Candidate]]
) -> tuple[tuple[str, ...], Spent]:
    """What `aggregator` makes of each question's candidates. `way` keeps the seeds of two ways apart."""
    window = contest.assembly.pool.engine.max_model_len
    texts = [[candidate.text for candidate in mine] for mine in candidates]
    worded = [
        replace(references(query, mine, window), id=f"{query.id}/{way}")
        for query, mine in zip(contest.queries, texts, strict=True)
    ]
    found, spent = contest.ask(worded, [[(aggregator, 0)]] * len(worded))
    return tuple(only.text for (only,) in found), spent


class Symmoe:
    """The pipeline that serves questions; a refused question has the answer `""`."""

    def answer(self, contest: Contest) -> Answered:
        """Charged for everything generated, an aggregator's words too, and for the seconds of the whole pipeline."""
        generated: list[Candidate] = []

        def seen(candidates: Sequence[Candidate]) -> None:
            generated.extend(candidates)
            contest.watch.candidates(candidates)

        began = time.perf_counter()
        watch = replace(contest.watch, candidates=seen)
        policy = policy_for(contest.assembly.pool, k=contest.k)
        outcome = answer(contest.assembly.parts(), contest.queries, policy, contest.seed, watch=watch)
        seconds = time.perf_counter() - began
        texts = tuple(result.answer.text if isinstance(result, Trace) else "" for result in outcome.results)
        return Answered(texts, spent_on(generated, seconds))


class BestSingle:
    """The expert with the best record: what a user would choose who may choose one."""

    def answer(self, contest: Contest) -> Answered:
        """One call for each question."""
        return _alone(contest, by_record(contest.assembly.profiles())[0])


class HindsightSingle:
    """The expert that is best on these very questions, which nobody could know; charged for its own calls only."""

    def answer(self, contest: Contest) -> Answered:
        """One call for each question."""
        return _alone(contest, best_in_hindsight(contest))


def best_in_hindsight(contest: Contest) -> str:
    """The expert with the most right answers, the first of the pool among equals."""
    names = contest.assembly.pool.names
    found, _ = contest.ask_all(names)
    rows = zip(found, contest.questions, strict=True)
    right = [[is_right(candidate.text, question) for candidate in mine] for mine, question in rows]
    counts = dict(zip(names, map(sum, zip(*right, strict=True)), strict=True))
    return max(names, key=lambda name: counts[name])


def _alone(contest: Contest, expert: str) -> Answered:
    found, spent = contest.ask_all([expert])
    return Answered(tuple(only.text for (only,) in found), spent)


MOST_DRAWS = 64
"""Of one question. More change no vote that these left open for good."""


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """As many draws of the best single expert as `budget` completion tokens pay for, spread evenly over the questions.

    Every question has one draw, whatever it costs. At temperature 0 that is all: further draws would be equal.
    """

    budget: int

    def answer(self, contest: Contest) -> Answered:
        """Draw in rounds, each as large as the mean length so far says that the rest of the budget allows."""
        expert = by_record(contest.assembly.profiles())[0]
        drawn: list[list[Candidate]] = [[] for _ in contest.queries]
        order = list(range(len(drawn)))
        Random(contest.seed).shuffle(order)
        spent = _round(contest, expert, order, drawn)
        while contest.sampling.temperature > 0:
            fits = min(self._affordable(spent), len(order))
            turn = [i for i in sorted(order, key=lambda i: len(drawn[i]))[:fits] if len(drawn[i]) < MOST_DRAWS]
            if not turn:
                break
            spent += _round(contest, expert, turn, drawn)
        return Answered(plurality(contest.queries, drawn), spent)

    def _affordable(self, spent: Spent) -> int:
        if not spent.completion_tokens:
            return 0
        return max(0, (self.budget - spent.completion_tokens) * spent.calls // spent.completion_tokens)


def _round(contest: Contest, expert: str, turn: list[int], drawn: list[list[Candidate]]) -> Spent:
    """One more draw for each question of this turn, added to `drawn`."""
    found, spent = contest.ask([contest.queries[i] for i in turn], [[(expert, len(drawn[i]))] for i in turn])
    for i, mine in zip(turn, found, strict=True):
        drawn[i] += mine
    return spent


class RandomVote:
    """k distinct experts drawn for each question, one vote each."""

    def answer(self, contest: Contest) -> Answered:
        """k calls for each question, fewer in a pool of fewer."""
        rng, names = Random(contest.seed), contest.assembly.pool.names
        k = min(contest.k, len(names))
        found, spent = contest.ask(contest.queries, [[(e, 0) for e in rng.sample(names, k)] for _ in contest.queries])
        return Answered(plurality(contest.queries, found), spent)


class AllVote:
    """Every expert of the pool, one vote each."""

    def answer(self, contest: Contest) -> Answered:
        """A call to every expert for each question."""
        found, spent = contest.ask_all(contest.assembly.pool.names)
        return Answered(plurality(contest.queries, found), spent)


@dataclass(frozen=True, slots=True)
class MixtureOfAgents:
    """`proposers` experts of the best record, or all of the pool for None."""

    proposers: int | None = None

    def answer(self, contest: Contest) -> Answered:
        """A call to every proposer, then one to the aggregator, for each question."""
        top = set(by_record(contest.assembly.profiles())[: self.proposers])
        found, proposed = contest.ask_all([name for name in contest.assembly.pool.names if name in top])
        texts, combined = synthesise(contest, "moa", contest.aggregator, found)
        return Answered(texts, proposed + combined)


@dataclass(frozen=True, slots=True)
class SelfMixture:
    """`samples` draws of the best single expert."""

    samples: int

    def answer(self, contest: Contest) -> Answered:
        """All draws and one more call for each question, all to one expert."""
        expert = by_record(contest.assembly.profiles())[0]
        draws = [(expert, slot) for slot in range(self.samples)]
        found, proposed = contest.ask(contest.queries, [draws] * len(contest.queries))
        texts, combined = synthesise(contest, "self_moa", expert, found)
        return Answered(texts, proposed + combined)


class SymbolicMoe:
    """k draws with replacement by the paper's rule on the pool's records, then always the aggregator.

    Skills are named by the pool's tagger, as for symmoe: the paper's annotator would cost calls of its own.
    """

    def answer(self, contest: Contest) -> Answered:
        """k + 1 calls for each question; the seconds include routing."""
        found, proposed = _proposed(contest)
        texts, combined = synthesise(contest, "symbolic_moe", contest.aggregator, found)
        return Answered(texts, proposed + combined)


class SymbolicVote:
    """The same draws with one vote each: what the published recruiting is worth where no aggregator spoils it."""

    def answer(self, contest: Contest) -> Answered:
        """k calls for each question; the seconds include routing."""
        found, spent = _proposed(contest)
        return Answered(plurality(contest.queries, found), spent)


def _proposed(contest: Contest) -> tuple[list[list[Candidate]], Spent]:
    """The candidates of the published recruiting, and what they cost."""
    began = time.perf_counter()
    pool = contest.assembly.pool
    published = pool.model_copy(update={"routing": pool.routing.model_copy(update={"recruiter": "published"})})
    recruiter = build_recruiter(published, contest.assembly.profiles())
    skills = contest.assembly.tagger.tag(contest.queries)
    recruitments = recruiter.recruit(contest.queries, skills, contest.k, contest.seed)
    routed = time.perf_counter() - began
    chosen = [[(a.expert, a.slot) for a in recruitment.assignments] for recruitment in recruitments]
    found, spent = contest.ask(contest.queries, chosen)
    return found, replace(spent, seconds=spent.seconds + routed)


class Oracle:
    """Every expert once, and a judge who knows the answer. No choice among these candidates can be better."""

    def answer(self, contest: Contest) -> Answered:
        """A call to every expert for each question."""
        found, spent = contest.ask_all(contest.assembly.pool.names)
        rows = zip(found, contest.questions, strict=True)
        return Answered(
            tuple(next((c.text for c in row if is_right(c.text, q)), row[0].text) for row, q in rows), spent
        )


RIVALS = ("moa", "self_moa", "all_vote")
"""The multi-agent rivals of which the best is the bar."""


def rivals(budget: int, proposers: int | None, samples: int) -> Mapping[str, Way]:
    """Every way but symmoe's own.

    `budget` are the completion tokens of self-consistency, `proposers` the experts of Mixture-of-Agents (None: all),
    `samples` the draws of Self-MoA.
    """
    return {
        "best_single": BestSingle(),
        "best_single_hindsight": HindsightSingle(),
        "self_consistency": SelfConsistency(budget),
        "random_vote": RandomVote(),
        "all_vote": AllVote(),
        "moa": MixtureOfAgents(proposers),
        "self_moa": SelfMixture(samples),
        "symbolic_moe": SymbolicMoe(),
        "symbolic_vote": SymbolicVote(),
        "oracle": Oracle(),
    }
