"""Whether an answer is right."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.aggregation.equivalence import equal
from symmoe.aggregation.extraction import extract
from symmoe.config import SamplingConfig
from symmoe.types import AnswerKind, Message, Query, Question, Refusal, Sampling, Scorer, Trace

_KINDS: dict[Scorer, AnswerKind] = {"exact": "text", "number": "number", "choice": "choice", "math": "math"}


def is_right(text: str, question: Question) -> bool:
    """Compare what was written with the known answer, both read in the way that the question's scorer names."""
    kind = _KINDS[question.scorer]
    said, wanted = extract(text, kind), extract(question.answer, kind)
    return said is not None and wanted is not None and equal(said, wanted, kind)


def kind_of(question: Question) -> AnswerKind:
    """How the answer to a question of a suite is read."""
    return _KINDS[question.scorer]


def earned(questions: Sequence[Question], results: Sequence[Trace | Refusal]) -> list[float]:
    """1 for each question whose answer is right, 0 for a wrong answer and for a refusal."""
    return [
        float(isinstance(result, Trace) and is_right(result.answer.text, question))
        for question, result in zip(questions, results, strict=True)
    ]


def as_query(question: Question, sampling: SamplingConfig) -> Query:
    """The question as a user would ask it: nothing of its answer or scorer goes along."""
    options = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p)
    return Query(question.id, (Message("user", question.question),), options)
