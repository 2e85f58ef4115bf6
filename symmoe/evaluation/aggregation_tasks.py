"""The synthetic aggregation task of Symbolic-MoE (§3.3): one right and two wrong candidates, one answer to be given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from symmoe.aggregation.extraction import extract, normalise
from symmoe.evaluation.matrix import Matrix
from symmoe.evaluation.scoring import is_right, kind_of
from symmoe.types import Question

WRONG = 2


@dataclass(frozen=True, slots=True)
class AggregationTask:
    """A question with three candidates of different answers, one of them right, in the order they are shown in.

    `made` are the places of candidates that no expert wrote.
    """

    question: Question
    candidates: tuple[str, str, str]
    right: int
    made: tuple[int, ...] = ()


def aggregation_tasks(matrix: Matrix, seed: int) -> list[AggregationTask]:
    """A task from each question of the matrix of which enough different answers are to be had, its known one readable.

    Candidates are what experts wrote. Where no expert is right, the known answer stands in; where wrong answers are
    lacking, right answers to other questions of its family do.
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
    said = {_said(question, text) for text in besides}
    kept = []
    for text in texts:
        answer = _said(question, text)
        if text and answer not in said and not is_right(text, question):
            said.add(answer)
            kept.append(text)
    return kept


def _said(question: Question, text: str) -> str:
    return extract(text, kind_of(question)) or normalise(text)
