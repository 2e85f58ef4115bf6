"""Recorded answers as a directory: a manifest, a file of questions, and one file of answers for each expert.

`records.json` says the format and how many lines every file has, so that a file that was cut short is noticed. The
other files are JSON lines, gzipped where their name ends in `.gz`. docs/records.md describes every field.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from symmoe.errors import RecordsError
from symmoe.json_files import read_json
from symmoe.types import Message, Question, Scorer

FORMAT = 1
MANIFEST, QUESTIONS, ANSWERS = "records.json", "questions", "answers"
ENDINGS = (".jsonl.gz", ".jsonl")
_CHARACTERS = 4
ExpertName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=64)]


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A recorded question: the conversation, the known answer if any, and how answers are compared with it."""

    id: str
    messages: tuple[Message, ...]
    answer: str | None = None
    family: str = "all"
    scorer: Scorer = "exact"

    @property
    def text(self) -> str:
        """The text of the last turn."""
        return self.messages[-1].content

    def known(self) -> Question:
        """The question with its known answer. Raises `ValueError` where there is none."""
        if self.answer is None:
            raise ValueError(f"the answer to {self.id!r} is not known")
        return Question(self.id, self.text, self.answer, self.family, self.scorer)


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """An expert's answer and its cost: tokens, money in one currency, seconds; None where not recorded."""

    text: str
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        """The completion tokens; where not recorded, estimated at four characters each."""
        return -(-len(self.text) // _CHARACTERS) if self.completion_tokens is None else self.completion_tokens


@dataclass(frozen=True, slots=True)
class Records:
    """Recorded questions, and each expert's answers by question id."""

    questions: tuple[AskedQuestion, ...]
    answers: Mapping[str, Mapping[str, RecordedAnswer]]
    where: str = "records"
    places: Mapping[tuple[Message, ...], str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places = {question.messages: question.id for question in self.questions}
        object.__setattr__(self, "places", places)

    def answer(self, expert: str, messages: tuple[Message, ...]) -> RecordedAnswer | None:
        """An expert's answer to a conversation; None where it is not on record."""
        ident = self.places.get(messages)
        return None if ident is None else self.answers[expert].get(ident)

    def known(self) -> list[Question]:
        """The questions with known answers. Raises `RecordsError` where there are none."""
        found = [question.known() for question in self.questions if question.answer is not None]
        if not found:
            raise RecordsError(
                f"{self.where}: no question has a known answer, so nobody can be found right or wrong",
                hint='add "answer" to lines of the questions file, or import with --suite',
            )
        return found

    def part(self, ids: Collection[str]) -> Records:
        """The questions of these ids, and the answers to them."""
        kept_ids = {question.id for question in self.questions} & set(ids)
        answers = {
            e: {i: answer for i, answer in recorded.items() if i in kept_ids} for e, recorded in self.answers.items()
        }
        return Records(tuple(q for q in self.questions if q.id in kept_ids), answers, self.where)

    def divided(self, share: float, seed: int, hidden: Collection[str] = ()) -> tuple[Records, Records]:
        """Two parts: a random `share` of the questions and the rest, or all but the `hidden` families and these.

        Raises `RecordsError` where a part would be empty.
        """
        rng = Random(seed)
        first = {q.id for q in self.questions if (q.family not in hidden if hidden else rng.random() < share)}
        rest = {question.id for question in self.questions} - first
        if not first or not rest:
            families = ", ".join(sorted({question.family for question in self.questions}))
            raise RecordsError(f"{self.where}: one part would hold no question", hint=f"its families are: {families}")
        return self.part(first), self.part(rest)

    def check(self, experts: Iterable[str]) -> None:
        """Raises `RecordsError` where an expert has no answers."""
        missing = [expert for expert in experts if expert not in self.answers]
        if missing:
            raise RecordsError(
                f"{self.where}: no answers of {', '.join(missing)}",
                hint=f"there are those of: {', '.join(self.answers) or 'nobody'}",
            )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Manifest(_Strict):
    questions: int
    answers: dict[ExpertName, int]
    source: str = ""


class _Turn(_Strict):
    role: str
    content: str


class _QuestionLine(_Strict):
    id: str = Field(min_length=1, max_length=512)
    question: str | None = Field(default=None, min_length=1)
    messages: list[_Turn] | None = Field(default=None, min_length=1)
    answer: str | None = Field(default=None, min_length=1)
    family: str = "all"
    scorer: Scorer = "exact"


class _AnswerLine(_Strict):
    id: str
    text: str
    completion_tokens: int | None = Field(default=None, ge=0)
    prompt_tokens: int | None = Field(default=None, ge=0)
    cost: float | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)
    finish_reason: str = "stop"


_MANIFEST = TypeAdapter(_Manifest)
_QUESTION, _ANSWER = TypeAdapter(_QuestionLine), TypeAdapter(_AnswerLine)
Line = TypeVar("Line")


def read_records(directory: Path) -> Records:
    """Read the records in a directory. Raises `RecordsError`, naming the file and the line at fault."""
    manifest = _manifest(directory)
    questions = _questions(_file(directory / QUESTIONS), manifest.questions)
    ids = {question.id for question in questions}
    answers = {
        expert: _answers(_file(directory / ANSWERS / expert), count, ids) for expert, count in manifest.answers.items()
    }
    return Records(tuple(questions), answers, str(directory))


def write_records(directory: Path, records: Records, source: str = "") -> None:
    """Write records, which `read_records` reads back equal. The manifest is written last: without it there are none."""
    (directory / ANSWERS).mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    _write(directory / f"{QUESTIONS}{ENDINGS[0]}", map(_question_row, records.questions))
    for expert, recorded in records.answers.items():
        rows = ({"id": ident, **_filled(answer)} for ident, answer in recorded.items())
        _write(directory / ANSWERS / f"{expert}{ENDINGS[0]}", rows)
    counts = {expert: len(recorded) for expert, recorded in records.answers.items()}
    facts = {"format": FORMAT, "questions": len(records.questions), "answers": counts, "source": source}
    (directory / MANIFEST).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def records_files(directory: Path) -> list[Path]:
    """The files that make up the records in a directory."""
    return [directory / MANIFEST, *sorted(directory.glob(f"{QUESTIONS}.*")), *sorted((directory / ANSWERS).glob("*"))]


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered non-blank lines of a file, gzipped or not. Raises `RecordsError` for a truncated file."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordsError(
            f"{path}: cut short or damaged after line {number} ({error})", hint="copy or import the file again"
        ) from error
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror})") from error


def _manifest(directory: Path) -> _Manifest:
    path = directory / MANIFEST
    document = read_json(path, RecordsError, "make a records directory with `symmoe records import`")
    version = document.pop("format", None)
    if version != FORMAT:
        raise RecordsError(
            f"{path}: format {version} is not {FORMAT}, which this symmoe reads",
            hint="import the records again, or use the symmoe that wrote them",
        )
    try:
        return _MANIFEST.validate_python(document)
    except ValidationError as error:
        raise RecordsError(f"{path}: {_fault(error)}") from error


def _file(path: Path) -> Path:
    """The file of that name, with one of the endings."""
    existing = [file for ending in ENDINGS if (file := path.with_name(path.name + ending)).is_file()]
    if not existing:
        raise RecordsError(f"{path}{ENDINGS[0]}: no such file, though {MANIFEST} names it")
    return existing[0]


def _questions(path: Path, count: int) -> list[AskedQuestion]:
    questions: dict[str, AskedQuestion] = {}
    worded: dict[tuple[Message, ...], str] = {}
    for number, line in _parsed(path, _QUESTION, count):
        if (line.question is None) == (line.messages is None):
            raise RecordsError(f"{path}: line {number}: needs either question or messages")
        turns = line.messages or [_Turn(role="user", content=line.question or "")]
        messages = tuple(Message(turn.role, turn.content) for turn in turns)
        if line.id in questions:
            raise RecordsError(f"{path}: line {number}: id {line.id!r} stands there twice")
        if messages in worded:
            raise RecordsError(f"{path}: line {number}: the words of {line.id!r} are those of {worded[messages]!r}")
        worded[messages] = line.id
        questions[line.id] = AskedQuestion(line.id, messages, line.answer, line.family, line.scorer)
    if not questions:
        raise RecordsError(f"{path}: no questions in it")
    return list(questions.values())


def _answers(path: Path, count: int, ids: set[str]) -> dict[str, RecordedAnswer]:
    answers: dict[str, RecordedAnswer] = {}
    for number, line in _parsed(path, _ANSWER, count):
        if line.id not in ids:
            raise RecordsError(f"{path}: line {number}: answers {line.id!r}, which is no question of these records")
        if line.id in answers:
            raise RecordsError(f"{path}: line {number}: a second answer to {line.id!r}")
        answers[line.id] = RecordedAnswer(
            line.text, line.completion_tokens, line.prompt_tokens, line.cost, line.seconds, line.finish_reason
        )
    return answers


def _parsed(path: Path, shape: TypeAdapter[Line], count: int) -> Iterator[tuple[int, Line]]:
    """The lines of a file, of which there must be `count`."""
    seen = 0
    for number, raw in lines_of(path):
        try:
            line = shape.validate_json(raw)
        except ValidationError as error:
            cut = "" if raw.endswith(b"\n") else "; the file is cut short there"
            raise RecordsError(f"{path}: line {number}: {_fault(error)}{cut}") from error
        seen += 1
        yield number, line
    if seen != count:
        raise RecordsError(
            f"{path}: holds {seen} lines and {MANIFEST} says {count}",
            hint="it was cut short, or added to: import again",
        )


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _question_row(question: AskedQuestion) -> dict[str, Any]:
    first = question.messages[0]
    alone = len(question.messages) == 1 and first.role == "user"
    turns = [{"role": turn.role, "content": turn.content} for turn in question.messages]
    row: dict[str, Any] = {"id": question.id, **({"question": first.content} if alone else {"messages": turns})}
    if question.answer is not None:
        row |= {"answer": question.answer, "scorer": question.scorer}
    return row | {"family": question.family}


def _filled(answer: RecordedAnswer) -> dict[str, Any]:
    fields = {name: getattr(answer, name) for name in RecordedAnswer.__slots__}
    return {
        name: value
        for name, value in fields.items()
        if value is not None and (name, value) != ("finish_reason", "stop")
    }


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
