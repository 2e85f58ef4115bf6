"""Makes records from a batch's traces, and from the public answers of many models to MMLU-Pro."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from symmoe.errors import RecordsError
from symmoe.records.files import AskedQuestion, RecordedAnswer, Records, lines_of
from symmoe.types import Message, Question

_LETTERS = "ABCDEFGHIJ"
_NEXT_QUESTION = re.compile(r"\n+\s*Question:")
_STATED = re.compile(r"answer is \(?([A-J])\)?")
_CHOICE = "\x1f"


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Item(_Loose):
    id: int
    question: str
    options: Annotated[list[str], Field(min_length=2, max_length=len(_LETTERS))]
    answer: Annotated[str, Field(pattern="^[A-J]$")]
    category: str


class _Given(_Loose):
    id: int
    pred: str | None
    text: str


class _Letters(_Loose):
    id: int
    pred: dict[str, str | None]


class _Candidate(_Loose):
    expert: str
    slot: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class _Trace(_Loose):
    query_id: str
    candidates: list[_Candidate]


def from_mmlu_pro(directory: Path, letters: bool = False) -> Records:
    """The answers of many models to MMLU-Pro: `questions.jsonl.gz`, and `NAME.jsonl.gz` of `{id, pred, text}` each.

    `letters` adds the models of `letters.jsonl.gz`, of which only the letter is known. Few-shot models go on to write
    the next question: the text is cut before it. Where the recorded letter (`pred`) is not what the text states last,
    it is stated at the end, so that the answer counts as it did for those who recorded it.
    """
    items = {line.id: line for line in _lines(directory / "questions.jsonl.gz", _Item)}
    answers: dict[str, dict[str, RecordedAnswer]] = {}
    for file in sorted(directory.glob("*.jsonl.gz")):
        if (name := file.name.removesuffix(".jsonl.gz")) not in ("questions", "letters"):
            answers[name] = {str(each.id): _completed(each.text, each.pred) for each in _lines(file, _Given)}
    if letters:
        for row in _lines(directory / "letters.jsonl.gz", _Letters):
            for name, letter in row.pred.items():
                answers.setdefault(name, {})[str(row.id)] = _completed("", letter)
    questions = [
        AskedQuestion(str(item.id), (Message("user", _worded(item)),), item.answer, item.category, "choice")
        for item in items.values()
    ]
    return _distinct(questions, answers, str(directory))


def from_traces(
    asked: Mapping[str, tuple[Message, ...]], traces: Iterable[Any], known: Sequence[Question], where: str
) -> Records:
    """The answers in a batch: `asked` are the conversations by line id, `traces` its traces or output rows.

    The first draw of an expert counts, and the first choice of a line. `known` are questions with the same ids and
    their answers.
    """
    suite = {question.id: question for question in known}
    questions = []
    for ident, messages in asked.items():
        if ident in suite:
            given = suite[ident]
            questions.append(AskedQuestion(ident, messages, given.answer, given.family, given.scorer))
        else:
            questions.append(AskedQuestion(ident, messages))
    answers: dict[str, dict[str, RecordedAnswer]] = {}
    for trace in traces:
        ident = trace.query_id
        if ident not in asked:
            raise RecordsError(f"{where}: a trace of {ident!r}, which is no line of the questions")
        for each in trace.candidates:
            if each.finish_reason != "error":
                answer = RecordedAnswer(
                    each.text, each.completion_tokens, each.prompt_tokens, finish_reason=each.finish_reason
                )
                answers.setdefault(each.expert, {}).setdefault(ident, answer)
    return _distinct(questions, answers, where)


def read_traces(path: Path) -> Iterator[_Trace]:
    """The traces in a file: of a `symmoe batch` run, or in the rows of a service's output."""
    shape = TypeAdapter(_Trace)
    count = 0
    for number, raw in lines_of(path):
        try:
            row = from_json(raw)
            traces = [(None, row)] if "candidates" in row else _told(row)
            for ident, trace in traces:
                read = shape.validate_python(trace)
                head, _, choice = read.query_id.partition(_CHOICE)
                count += 1
                if not choice and (ident is None or head == "0"):
                    yield read.model_copy(update={"query_id": ident or head})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RecordsError(f"{path}: line {number}: not a trace ({' '.join(str(error).split())[:200]})") from error
    if not count:
        raise RecordsError(
            f"{path}: no traces in it", hint="name the .trace.jsonl of a batch, or ask a service with explain"
        )


def write_pool(directory: Path, records: Records) -> Path:
    """Write a pool file beside records, whose experts answer from them, unless there is one. Returns its path."""
    path = directory / "pool.yaml"
    if not path.exists():
        document = {
            "name": "records",
            "engine": {"kind": "recorded", "records": "."},
            "routing": {"profiles": "./profiles.json", "k": 5},
            "experts": [{"name": name, "model": f"recorded/{name}"} for name in records.answers],
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def _told(row: Mapping[str, Any]) -> list[tuple[str | None, Any]]:
    """The traces in a row of a service's output, each with the id of its line."""
    body = (row.get("response") or {}).get("body") or {}
    return [(row["custom_id"], trace) for trace in (body.get("symmoe") or {}).get("traces", ())]


def _lines(path: Path, shape: type[Any]) -> Iterator[Any]:
    for number, raw in lines_of(path):
        try:
            yield shape.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise RecordsError(f"{path}: line {number}: {place}: {first['msg']}") from error


def _worded(item: _Item) -> str:
    options = (f"{letter}. {option}" for letter, option in zip(_LETTERS, item.options, strict=False))
    return "\n".join((item.question, *options))


def _completed(text: str, letter: str | None) -> RecordedAnswer:
    answer = _NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
    stated = _STATED.findall(answer)
    if letter is not None and (not stated or stated[-1] != letter):
        answer = f"{answer}\n\nThe answer is ({letter}).".strip()
    return RecordedAnswer(answer)


def _distinct(
    questions: Iterable[AskedQuestion], answers: Mapping[str, Mapping[str, RecordedAnswer]], where: str
) -> Records:
    """One question for each wording, the first, with the answers that were given to any of its lines."""
    first: dict[tuple[Message, ...], AskedQuestion] = {}
    same: dict[str, str] = {}
    for question in questions:
        original = first.setdefault(question.messages, question)
        same[question.id] = original.id
        if original.answer is None and question.answer is not None:
            first[question.messages] = replace(question, id=original.id)
    gathered: dict[str, dict[str, RecordedAnswer]] = {}
    for expert, recorded in answers.items():
        merged = gathered.setdefault(expert, {})
        for ident, answer in recorded.items():
            merged.setdefault(same[ident], answer)
    return Records(tuple(first.values()), gathered, where)
