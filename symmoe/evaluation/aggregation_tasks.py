"""The synthetic aggregation task of Symbolic-MoE (§3.3): one right and two wrong candidates, one answer to be given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from symmoe.aggregation.extraction import extract, normalise
from symmoe.evaluation.matrix import Matrix
from symmoe.evaluation.scoring import is_right, kind_of
from symmoe.types import Message, Query, Question

WRONG = 2
CHANCE = 1 / (1 + WRONG)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_LEAST_CHARACTERS = 80


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


def synthesis_query(query: Query, texts: Sequence[str], window: int, ident: str) -> Query:
    """Ask for one answer to `query` in the light of `texts`, which are cut alike to leave room in a `window` of tokens.

    As in Mixture-of-Agents the candidates stand before the question, which stays the last thing said. Thoughts between
    `<think>` marks are left out.
    """
    room = max(_LEAST_CHARACTERS, 2 * window // max(len(texts), 1))
    shown = "\n".join(f"{n}. {_THOUGHT.sub('', text).strip()[:room]}" for n, text in enumerate(texts, start=1))
    words = (
        "Several assistants have answered the user's question. Some of their answers may be wrong. "
        f"Weigh them, then give the one right answer and nothing else.\n\nAnswers:\n{shown}"
    )
    return Query(ident, (Message("system", words), *query.messages), query.sampling, query.kind)


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
