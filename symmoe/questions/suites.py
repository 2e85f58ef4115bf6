"""Suites of questions with known answers: drawn from the families by split, or read from any file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from importlib.resources import files
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.errors import InputError, RequestError, SuiteError
from symmoe.questions.families import FAMILIES, boxed
from symmoe.rows.reading import Row, Rows
from symmoe.rows.shapes import Reading
from symmoe.types import Question, Scorer, to_json

Split = Literal["train", "profile", "test"]

_SEED_RANGE: dict[Split, int] = {"train": 1_000_000, "profile": 2_000_000, "test": 3_000_000}
_RANGE_SIZE = 1_000_000
_BUCKETS: dict[Split, range] = {"train": range(80), "profile": range(80, 90), "test": range(90, 100)}


def split_of(question: str) -> Split:
    """The split that a question's text belongs to: 80 % train, 10 % profile, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def draw(family: str, split: Split, seed: int) -> Iterator[Question]:
    """Draw distinct questions of one family and split without end (or until the family runs dry).

    `seed` is an offset into the split's own range of seeds, so no two splits ever share a seed.
    """
    if not 0 <= seed < _RANGE_SIZE:
        raise ValueError(f"seed must be between 0 and {_RANGE_SIZE - 1}, not {seed}")
    kind = FAMILIES[family]
    rng = Random(f"{family}/{_SEED_RANGE[split] + seed}")
    seen: set[str] = set()
    barren = 0
    while barren < 2000:
        text, answer = kind.draw(rng)
        if text in seen or split_of(text) != split:
            barren += 1
            continue
        seen.add(text)
        barren = 0
        yield Question(f"{family}-{split}-{seed}-{len(seen):04d}", text, answer, family, kind.scorer)


def mixed_suite(per_family: int, split: Split, seed: int, families: Iterable[str] = FAMILIES) -> list[Question]:
    """A shuffled suite of `per_family` questions of every family."""
    suite = [question for name in families for question in islice(draw(name, split, seed), per_family)]
    Random(seed).shuffle(suite)
    return suite


def everyday_suite(split: Split, count: int | None = None, seed: int = 0) -> list[Question]:
    """Everyday questions: facts, word problems, choices, programs, translations, words; all, or `count`.

    They were written by hand for symmoe; `test` and `profile` have different ones, and there are none for training. A
    smaller suite is a random sample of all kinds, and a part of any larger one.
    """
    suite = read_suite(Path(str(files("symmoe.skills"))) / "suites" / f"everyday-{split}.jsonl")
    if count is not None:
        Random(seed).shuffle(suite)
    return suite[:count]


def general_suite(per_family: int, split: Split, seed: int) -> list[Question]:
    """Everyday questions and `per_family` of every family, shuffled: every skill of the general taxonomy."""
    suite = everyday_suite(split) + mixed_suite(per_family, split, seed)
    Random(seed).shuffle(suite)
    return suite


def suite_at(path: Path | None, per_family: int, split: Split, seed: int, everyday: bool = False) -> list[Question]:
    """The suite in a file, or without one a mixed suite; with `everyday` the general one."""
    if path:
        return read_suite(path)
    return (general_suite if everyday else mixed_suite)(per_family, split, seed)


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    family: str = "all"
    scorer: Scorer = "exact"
    accepted: tuple[str, ...] = ()


_OWN, _FIELDS = {"id", "question", "answer"}, _Item.model_fields.keys()
_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?%?")


def read_suite(path: Path) -> list[Question]:
    """Read a suite: lines as `write_suite` writes them, or any file of questions whose rows have a known answer.

    Raises `SuiteError`, naming the file, the row and the field at fault.
    """
    questions: dict[str, Question] = {}
    try:
        with closing(Rows([path])) as rows:
            for row in rows:
                question = _question(row, path)
                if question.id in questions:
                    raise SuiteError(f"{path}: line {row.number}: id {question.id!r} stands there twice")
                questions[question.id] = question
    except InputError as error:
        raise error if isinstance(error, SuiteError) else SuiteError(str(error), hint=error.hint) from error
    if not questions:
        raise SuiteError(f"{path}: no questions in it")
    return list(questions.values())


def _question(row: Row, path: Path) -> Question:
    if row.code:
        raise SuiteError(f"{path}: {row.fault}")
    place = f"{path}: line {row.number}"
    is_own = _OWN <= row.row.keys() <= _FIELDS
    return _own(row.row, place) if is_own else _any(row.row, str(row.place or row.number), place)


def _own(row: dict[str, Any], place: str) -> Question:
    try:
        return Question(**_Item.model_validate_json(json.dumps(row)).model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        raise SuiteError(f"{place}: {'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}") from error


def _any(row: dict[str, Any], ident: str, place: str) -> Question:
    try:
        question = known_question(row, Reading(score=True), ident)
    except RequestError as error:
        raise SuiteError(f"{place}: {error}") from error
    if question is None:
        raise SuiteError(f"{place}: no known answer; its columns are {', '.join(row)}")
    return question


def known_question(row: Mapping[str, Any], reading: Reading, ident: str) -> Question | None:
    """The question of a row, under its id or `ident`, with the known answer as it is graded; None without one.

    The answer is what follows `####` in GSM8K, and what is boxed in MATH. Raises `RequestError`.
    """
    asked = reading.asked(row)
    if asked.reference is None:
        return None
    answer = asked.reference.rpartition("####")[2].strip()
    answer = boxed(answer) or answer
    scorer: Scorer = "choice" if asked.options else "number" if _NUMBER.fullmatch(answer) else "exact"
    if scorer == "exact" and any(mark in answer for mark in "\\^$"):
        scorer = "math"
    family = next((row[name] for name in ("category", "subject", "type") if isinstance(row.get(name), str)), "all")
    return Question(asked.id or ident, asked.messages[-1].content, answer, family or "all", scorer)


def write_suite(path: Path, questions: Iterable[Question]) -> None:
    """Write a suite, which `read_suite` reads back equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(to_json(q), ensure_ascii=False) + "\n" for q in questions), encoding="utf-8")
