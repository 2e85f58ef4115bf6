"""Who aggregates best: every expert on the synthetic task, its skill kept in its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from symmoe.aggregation.choosing import CHANCE
from symmoe.build import Assembly
from symmoe.evaluation.aggregation_tasks import AggregationTask, aggregation_tasks
from symmoe.evaluation.matrix import gathered, run_matrix
from symmoe.evaluation.scoring import as_query, is_right, kind_of
from symmoe.evaluation.wording import Wording, fenced
from symmoe.pipeline import Watch
from symmoe.planning.grouping import plan
from symmoe.types import AnswerKind, Assignment, ExpertProfile, Profiles, Question, Recruitment, Tally


@dataclass(frozen=True, slots=True)
class AggregatorBench:
    """The tasks, and every expert's tally on them by kind of answer; `left_out` questions gave no task."""

    tasks: tuple[AggregationTask, ...]
    skills: Mapping[str, Mapping[AnswerKind, Tally]]
    left_out: int


def bench_aggregators(
    assembly: Assembly,
    questions: Sequence[Question],
    seed: int,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
    wording: Wording = fenced,
) -> AggregatorBench:
    """Have every expert answer every question, make tasks of what they wrote, and set every expert every task.

    The tasks are worded as the pipeline words them.
    """
    pool = assembly.pool
    matrix = run_matrix(assembly.executor, pool.names, assembly.models, questions, pool.sampling, watch)
    tasks = aggregation_tasks(matrix, seed)
    answered = _ask(assembly, tasks, watch, wording)
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
    """The records with the aggregation skills that were measured in place of earlier ones."""
    known = {name: ExpertProfile(name, {}, Tally(0, 0)) for name in bench.skills} | dict(profiles.experts)
    experts = {
        name: replace(profile, aggregation=bench.skills.get(name, profile.aggregation))
        for name, profile in known.items()
    }
    return Profiles(experts, profiles.parents)


def over_chance(tally: Tally) -> float:
    """How far above picking one of the three candidates at random an expert is, in points."""
    return 100 * (tally.right / tally.asked - CHANCE) if tally.asked else 0.0


def _ask(assembly: Assembly, tasks: Sequence[AggregationTask], watch: Watch, wording: Wording) -> dict[str, list[str]]:
    pool = assembly.pool
    asked = [as_query(task.question, pool.sampling) for task in tasks]
    window = pool.engine.max_model_len
    queries = [wording(query, task.candidates, window) for query, task in zip(asked, tasks, strict=True)]
    everyone = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in pool.names), {}) for q in queries]
    steps = plan(queries, everyone, assembly.models)
    found = {(c.expert, c.query_id): c.text for c in gathered(assembly.executor, steps, watch)}
    return {name: [found[name, query.id] for query in queries] for name in pool.names}
