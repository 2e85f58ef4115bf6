"""The ways of answering that `symmoe bench quality` compares, with the same sampling settings, and their costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from symmoe.aggregation.synthesis import best_aggregator
from symmoe.aggregation.vote import WeightedVote
from symmoe.build import Assembly, build_recruiter
from symmoe.config import SamplingConfig
from symmoe.pipeline import UNWATCHED, Watch, answer
from symmoe.planning.grouping import plan
from symmoe.policy import policy_for
from symmoe.profiles.aggregators import references
from symmoe.profiles.marking import as_query, gathered, is_right
from symmoe.types import Assignment, Candidate, Profiles, Query, Question, Recruitment, Trace, Verdict

MOST_DRAWS = 64
"""The most draws of a question in self-consistency; more would hardly change a vote."""
RIVALS = ("moa", "self_moa", "all_vote")
"""The multi-agent rivals; symmoe is compared with the best of them."""
Draw = tuple[str, int]
"""An expert and the number of its draw for the question."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Generations, their tokens, and seconds of generation.

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
    """The answer to each question, in order, and the cost of all."""

    texts: tuple[str, ...]
    spent: Spent


class Contest:
    """The questions, and the experts to ask, with the same `sampling`, `k` and seed for every way.

    A call that several ways make is generated once and charged to each, with its seconds. With a file `kept`, it is
    generated once for all runs.
    """

    def __init__(
        self,
        assembly: Assembly,
        questions: Sequence[Question],
        sampling: SamplingConfig,
        k: int,
        seed: int,
        watch: Watch = UNWATCHED,
        aggregator: str | None = None,
        kept: Path | None = None,
    ) -> None:
        self.assembly, self.questions, self.sampling = assembly, tuple(questions), sampling
        self.k, self.seed, self.watch = k, seed, watch
        self.queries = tuple(as_query(question, sampling) for question in questions)
        self.executor = assembly.remembering_executor(kept)
        self._aggregator = aggregator

    @property
    def aggregator(self) -> str:
        """The expert that aggregates for every way that needs one: the one named, else the best on record."""
        return self._aggregator or fixed_aggregator(self.assembly.profiles())

    def ask(self, queries: Sequence[Query], chosen: Sequence[Sequence[Draw]]) -> tuple[list[list[Candidate]], Spent]:
        """Ask each query's draws; its candidates in that order, and the cost. Every expert is loaded once."""
        assigned = [[Assignment(q.id, *draw) for draw in draws] for q, draws in zip(queries, chosen, strict=True)]
        alone = [Recruitment(q.id, tuple(mine), {}) for q, mine in zip(queries, assigned, strict=True)]
        bounds = self.assembly.pool.most_tokens
        steps = plan(queries, alone, self.assembly.models, seed=self.seed, most_tokens=bounds)
        found = {each.assignment: each for each in gathered(self.executor, steps, self.watch)}
        return [[found[assignment] for assignment in mine] for mine in assigned], self.spent_on(found.values())

    def ask_all(self, experts: Sequence[str]) -> tuple[list[list[Candidate]], Spent]:
        """Ask each of these experts every question once."""
        return self.ask(self.queries, [[(expert, 0) for expert in experts]] * len(self.queries))

    def prepare(self, samples: int) -> None:
        """Generate answers that are known to be needed, so that each expert is loaded once for all ways.

        These are one answer of every expert, `samples` of the best one, and the draws of the published recruiting.
        """
        everyone = [(name, 0) for name in self.assembly.pool.names]
        best = [(by_record(self.assembly.profiles())[0], slot) for slot in range(samples)]
        drawn = [[(each.expert, each.slot) for each in recruited.assignments] for recruited in _published(self)]
        self.ask(self.queries, [list(dict.fromkeys([*everyone, *best, *own])) for own in drawn])

    def spent_on(self, candidates: Iterable[Candidate], seconds: float = 0.0) -> Spent:
        """The cost of candidates, plus `seconds`; shared and failed candidates cost nothing."""
        own = [each for each in candidates if not each.shared and each.finish_reason != "error"]
        return Spent(
            len(own),
            sum(each.prompt_tokens for each in own),
            sum(each.completion_tokens for each in own),
            seconds + sum(map(self.executor.seconds, own)),
        )


Way = Callable[[Contest], Answered]
"""Answers all questions of a contest in order; its cost is as if no other way had run."""


def by_record(profiles: Profiles) -> list[str]:
    """Experts by overall validation accuracy, best first; equal ones in the order of the pool."""
    overall = {name: profile.overall for name, profile in profiles.experts.items()}
    return sorted(overall, key=lambda name: -(overall[name].right + 1) / (overall[name].asked + 2))


def fixed_aggregator(profiles: Profiles) -> str:
    """The expert that aggregates: the best on record at it, or without such records the most accurate one."""
    return best_aggregator(profiles) or by_record(profiles)[0]


def plurality(queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]) -> tuple[str, ...]:
    """The answer that most candidates of each query give; in a tie, that of the first one asked."""
    vote = WeightedVote()
    verdicts = [[Verdict(c.expert, c.slot, float(c.finish_reason != "error")) for c in each] for each in candidates]
    return tuple(vote.aggregate(q, c, v).text for q, c, v in zip(queries, candidates, verdicts, strict=True))


def synthesise(
    contest: Contest, way: str, aggregator: str, candidates: Sequence[Sequence[Candidate]]
) -> tuple[tuple[str, ...], Spent]:
    """The answers of `aggregator` from each question's candidates, and their cost. `way` separates seeds of ways."""
    window = contest.assembly.pool.engine.max_model_len
    texts = [[candidate.text for candidate in mine] for mine in candidates]
    worded = [
        replace(references(query, mine, window), id=f"{query.id}/{way}")
        for query, mine in zip(contest.queries, texts, strict=True)
    ]
    found, spent = contest.ask(worded, [[(aggregator, 0)]] * len(worded))
    return tuple(only.text for (only,) in found), spent


def symmoe(contest: Contest) -> Answered:
    """symmoe's pipeline; a refused question has the answer `""`.

    The cost has everything that is generated, by the aggregator as well, and seconds of routing, planning and scoring.
    """
    generated: list[Candidate] = []

    def seen(candidates: Sequence[Candidate]) -> None:
        generated.extend(candidates)
        contest.watch.candidates(candidates)

    watch = replace(contest.watch, candidates=seen)
    policy = policy_for(contest.assembly.pool, k=contest.k)
    parts = replace(contest.assembly.parts(), executor=contest.executor)
    outcome = answer(parts, contest.queries, policy, contest.seed, watch=watch)
    thinking = sum(outcome.seconds[stage] for stage in ("tag", "recruit", "plan", "score"))
    texts = tuple(result.answer.text if isinstance(result, Trace) else "" for result in outcome.results)
    return Answered(texts, contest.spent_on(generated, thinking))


def best_single(contest: Contest) -> Answered:
    """The expert with the best record, which a user would choose."""
    return _alone(contest, by_record(contest.assembly.profiles())[0])


def best_single_hindsight(contest: Contest) -> Answered:
    """The expert that is best on these questions, which cannot be known in advance; only its calls are charged."""
    return _alone(contest, best_in_hindsight(contest))


def best_in_hindsight(contest: Contest) -> str:
    """The expert with the most right answers; among equals the first of the pool."""
    names = contest.assembly.pool.names
    found, _ = contest.ask_all(names)
    rows = zip(found, contest.questions, strict=True)
    right = [[is_right(candidate.text, question) for candidate in mine] for mine, question in rows]
    counts = dict(zip(names, map(sum, zip(*right, strict=True)), strict=True))
    return max(names, key=lambda name: counts[name])


def self_consistency(contest: Contest, budget: int) -> Answered:
    """A vote over draws of the best single expert (arXiv 2203.11171), as many as fit into `budget` completion tokens.

    Draws are spread evenly over the questions in rounds; the size of a round follows from the rest of the budget and
    the mean length so far. Every question has at least one draw; at temperature 0 only one, as more would be equal.
    """
    expert = by_record(contest.assembly.profiles())[0]
    drawn: list[list[Candidate]] = [[] for _ in contest.queries]

    def draw(turn: Sequence[int]) -> Spent:
        """One more draw for each of these questions."""
        found, spent = contest.ask([contest.queries[i] for i in turn], [[(expert, len(drawn[i]))] for i in turn])
        for i, mine in zip(turn, found, strict=True):
            drawn[i] += mine
        return spent

    order = list(range(len(drawn)))
    Random(contest.seed).shuffle(order)
    spent = draw(order)
    while contest.sampling.temperature > 0 and spent.completion_tokens:
        fits = max(0, (budget - spent.completion_tokens) * spent.calls // spent.completion_tokens)
        turn = [i for i in sorted(order, key=lambda i: len(drawn[i]))[:fits] if len(drawn[i]) < MOST_DRAWS]
        if not turn:
            break
        spent += draw(turn)
    return Answered(plurality(contest.queries, drawn), spent)


def random_vote(contest: Contest) -> Answered:
    """A vote of k distinct random experts for each question."""
    rng, names = Random(contest.seed), contest.assembly.pool.names
    k = min(contest.k, len(names))
    found, spent = contest.ask(contest.queries, [[(e, 0) for e in rng.sample(names, k)] for _ in contest.queries])
    return Answered(plurality(contest.queries, found), spent)


def all_vote(contest: Contest) -> Answered:
    """A vote of all experts of the pool."""
    found, spent = contest.ask_all(contest.assembly.pool.names)
    return Answered(plurality(contest.queries, found), spent)


def mixture_of_agents(contest: Contest, proposers: int | None = None) -> Answered:
    """Mixture-of-Agents (arXiv 2406.04692) with two layers: proposers, then an aggregator that reads all answers.

    The `proposers` experts with the best records propose; for None, all of the pool.
    """
    top = set(by_record(contest.assembly.profiles())[:proposers])
    found, proposed = contest.ask_all([name for name in contest.assembly.pool.names if name in top])
    texts, combined = synthesise(contest, "moa", contest.aggregator, found)
    return Answered(texts, proposed + combined)


def self_mixture(contest: Contest, samples: int) -> Answered:
    """Self-MoA (arXiv 2502.00674): the best single expert answers `samples` times and aggregates its own answers."""
    expert = by_record(contest.assembly.profiles())[0]
    draws = [(expert, slot) for slot in range(samples)]
    found, proposed = contest.ask(contest.queries, [draws] * len(contest.queries))
    texts, combined = synthesise(contest, "self_moa", expert, found)
    return Answered(texts, proposed + combined)


def symbolic_moe(contest: Contest) -> Answered:
    """Symbolic-MoE (arXiv 2503.05641): k draws with replacement by its rule on the pool's records, then an aggregator.

    Skills are tagged by the pool's tagger, as for symmoe; the paper's annotator would need further calls. The seconds
    include routing.
    """
    found, proposed = _drawn(contest)
    texts, combined = synthesise(contest, "symbolic_moe", contest.aggregator, found)
    return Answered(texts, proposed + combined)


def symbolic_vote(contest: Contest) -> Answered:
    """A vote of the draws of `symbolic_moe`: the published recruiting without an aggregator."""
    found, spent = _drawn(contest)
    return Answered(plurality(contest.queries, found), spent)


def oracle(contest: Contest) -> Answered:
    """An upper bound: every expert is asked once, and a right answer counts if any gives it."""
    found, spent = contest.ask_all(contest.assembly.pool.names)
    rows = zip(found, contest.questions, strict=True)
    return Answered(tuple(next((c.text for c in row if is_right(c.text, q)), row[0].text) for row, q in rows), spent)


def rivals(budget: int, proposers: int | None, samples: int) -> Mapping[str, Way]:
    """All ways other than symmoe, by name.

    `budget` is in completion tokens, for self-consistency; `proposers` is the number of experts in Mixture-of-Agents
    (None: all), `samples` the draws of Self-MoA.
    """
    return {
        "best_single": best_single,
        "best_single_hindsight": best_single_hindsight,
        "self_consistency": partial(self_consistency, budget=budget),
        "random_vote": random_vote,
        "all_vote": all_vote,
        "moa": partial(mixture_of_agents, proposers=proposers),
        "self_moa": partial(self_mixture, samples=samples),
        "symbolic_moe": symbolic_moe,
        "symbolic_vote": symbolic_vote,
        "oracle": oracle,
    }


def _alone(contest: Contest, expert: str) -> Answered:
    found, spent = contest.ask_all([expert])
    return Answered(tuple(only.text for (only,) in found), spent)


def _published(contest: Contest) -> list[Recruitment]:
    """The experts that the published rule recruits for each question."""
    pool = contest.assembly.pool
    published = pool.model_copy(update={"routing": pool.routing.model_copy(update={"recruiter": "published"})})
    recruiter = build_recruiter(published, contest.assembly.profiles(), contest.assembly.embedder)
    skills = contest.assembly.tagger.tag(contest.queries)
    return recruiter.recruit(contest.queries, skills, contest.k, contest.seed)


def _drawn(contest: Contest) -> tuple[list[list[Candidate]], Spent]:
    """The candidates of the published recruiting, and the cost of them and of routing."""
    began = time.perf_counter()
    recruited = _published(contest)
    routed = time.perf_counter() - began
    found, spent = contest.ask(contest.queries, [[(a.expert, a.slot) for a in own.assignments] for own in recruited])
    return found, replace(spent, seconds=spent.seconds + routed)
