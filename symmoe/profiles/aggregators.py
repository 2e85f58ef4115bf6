"""Finds who aggregates best: sets every expert Symbolic-MoE's synthetic task (§3.3) and records its skill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from symmoe.aggregation.extraction import extract, normalise, without_reasoning
from symmoe.aggregation.prompting import Window, prompt_for
from symmoe.aggregation.synthesis import CHANCE
from symmoe.aggregation.vote import Case, WeightedVote
from symmoe.build import Assembly
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.profiles.marking import Matrix, as_query, gathered, is_right, kind_of, run_matrix
from symmoe.types import (
    AnswerKind,
    Assignment,
    Candidate,
    ExpertProfile,
    Message,
    Profiles,
    Query,
    Question,
    Recruitment,
    Tally,
    Verdict,
)

WRONG = 2
_LEAST_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class AggregationTask:
    """A question with three candidates of different answers, one of them right, in the order shown.

    `made` are the indices of candidates that no expert wrote.
    """

    question: Question
    candidates: tuple[str, str, str]
    right: int
    made: tuple[int, ...] = ()


def aggregation_tasks(matrix: Matrix, seed: int) -> list[AggregationTask]:
    """A task from each question of the matrix with enough different answers and a readable known one.

    Candidates are what experts wrote. If no expert is right, the known answer stands in; missing wrong answers are
    replaced by right answers to other questions of its family.
    """
    rng = Random(seed)
    tasks = (_task(matrix, i, rng) for i in range(len(matrix.questions)))
    return [task for task in tasks if task is not None]


def _task(matrix: Matrix, i: int, rng: Random) -> AggregationTask | None:
    question = matrix.questions[i]
    written = [texts[i].strip() for texts in matrix.texts.values()]
    experts = rng.sample(written, len(written))
    right = next((text for text in experts if is_right(text, question)), None)
    kin = [q.answer for q in matrix.questions if q.family == question.family and q.scorer == question.scorer]
    wrong = _wrong(question, experts)
    made = _wrong(question, rng.sample(kin, len(kin)), besides=wrong)
    if len(wrong) + len(made) < WRONG or not is_right(question.answer, question):
        return None
    chosen = [(right or question.answer, right is None)]
    chosen += [*((text, False) for text in wrong), *((text, True) for text in made)][:WRONG]
    order = rng.sample(range(len(chosen)), len(chosen))
    first, second, third = (chosen[place][0] for place in order)
    places = tuple(n for n, place in enumerate(order) if chosen[place][1])
    return AggregationTask(question, (first, second, third), order.index(0), places)


def _wrong(question: Question, texts: Iterable[str], besides: Sequence[str] = ()) -> list[str]:
    """Texts with wrong answers, none of which says what another, or one of `besides`, says."""
    seen = {_said(question, text) for text in besides}
    kept = []
    for text in texts:
        answer = _said(question, text)
        if text and answer not in seen and not is_right(text, question):
            seen.add(answer)
            kept.append(text)
    return kept


def _said(question: Question, text: str) -> str:
    return extract(text, kind_of(question)) or normalise(text)


def fenced(query: Query, texts: Sequence[str], window: int) -> Query:
    """A task worded as the pipeline words it: texts as fenced data of equal weight; `references` if they do not fit."""
    candidates = tuple(Candidate(query.id, f"{n}", 0, text, "stop", 0, 0, "resident") for n, text in enumerate(texts))
    verdicts = tuple(Verdict(candidate.expert, 0, 1.0) for candidate in candidates)
    voted = WeightedVote().aggregate(query, candidates, verdicts)
    prompt = prompt_for(Case(query, candidates, verdicts, voted), Window(window, most=len(texts)), seed=0)
    return prompt.query if prompt else references(query, texts, window)


def references(query: Query, texts: Sequence[str], window: int) -> Query:
    """A task worded as Mixture-of-Agents does: the texts as references in a system turn before the question.

    They are cut alike to fit the window, without the experts' reasoning.
    """
    room = max(_LEAST_CHARACTERS, 2 * window // max(len(texts), 1))
    listing = "\n".join(f"{n}. {without_reasoning(text).strip()[:room]}" for n, text in enumerate(texts, start=1))
    words = (
        "Several assistants have answered the user's question. Some of their answers may be wrong. "
        f"Weigh them, then give the one right answer and nothing else.\n\nAnswers:\n{listing}"
    )
    return Query(query.id, (Message("system", words), *query.messages), query.sampling, query.kind)


@dataclass(frozen=True, slots=True)
class AggregatorBench:
    """The tasks, and every expert's tally on them by kind of answer; `left_out` questions gave no task."""

    tasks: tuple[AggregationTask, ...]
    skills: Mapping[str, Mapping[AnswerKind, Tally]]
    left_out: int


def bench_aggregators(
    assembly: Assembly, questions: Sequence[Question], seed: int, watch: Watch = UNWATCHED
) -> AggregatorBench:
    """Have every expert answer every question, make tasks of the answers, and set every expert every task.

    The tasks are worded as the pipeline words them.
    """
    pool = assembly.pool
    matrix = run_matrix(
        assembly.executor, pool.names, assembly.models, questions, pool.sampling, watch, assembly.pool.most_tokens
    )
    tasks = aggregation_tasks(matrix, seed)
    answered = _ask(assembly, tasks, watch)
    skills = {name: tallied(tasks, answered[name]) for name in pool.names}
    return AggregatorBench(tuple(tasks), skills, len(questions) - len(tasks))


def tallied(tasks: Sequence[AggregationTask], texts: Sequence[str]) -> dict[AnswerKind, Tally]:
    """One expert's right and wrong final answers, by kind of answer."""
    tallies: dict[AnswerKind, Tally] = {}
    for task, text in zip(tasks, texts, strict=True):
        kind, right = kind_of(task.question), is_right(text, task.question)
        before = tallies.get(kind, Tally(0, 0))
        tallies[kind] = Tally(before.right + right, before.wrong + (not right))
    return tallies


def with_aggregation(profiles: Profiles, bench: AggregatorBench) -> Profiles:
    """The records with the measured aggregation skills in place of earlier ones."""
    known = {name: ExpertProfile(name, {}, Tally(0, 0)) for name in bench.skills} | dict(profiles.experts)
    experts = {
        name: replace(profile, aggregation=bench.skills.get(name, profile.aggregation))
        for name, profile in known.items()
    }
    return replace(profiles, experts=experts)


def over_chance(tally: Tally) -> float:
    """How far above picking one of the three candidates at random an expert is, in points."""
    return 100 * (tally.right / tally.asked - CHANCE) if tally.asked else 0.0


def _ask(assembly: Assembly, tasks: Sequence[AggregationTask], watch: Watch) -> dict[str, list[str]]:
    pool = assembly.pool
    original_queries = [as_query(task.question, pool.sampling) for task in tasks]
    window = pool.engine.max_model_len
    queries = [fenced(query, task.candidates, window) for query, task in zip(original_queries, tasks, strict=True)]
    everyone = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in pool.names), {}) for q in queries]
    steps = plan(queries, everyone, assembly.models)
    texts = {(c.expert, c.query_id): c.text for c in gathered(assembly.executor, steps, watch)}
    return {name: [texts[name, query.id] for query in queries] for name in pool.names}
