"""Suites on disk: JSON lines of `id`, `question`, `answer`, `family`, `scorer`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.errors import SuiteError
from symmoe.types import Question, Scorer, to_json


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    family: str = "all"
    scorer: Scorer = "exact"


def read_suite(path: Path) -> list[Question]:
    """Read a suite; `SuiteError` names the file, the line and the field at fault."""
    questions: dict[str, Question] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = _Item.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "line"
            raise SuiteError(f"{path}: line {number}: {place}: {first['msg']}") from error
        if item.id in questions:
            raise SuiteError(f"{path}: line {number}: id {item.id!r} stands there twice")
        questions[item.id] = Question(**item.model_dump())
    if not questions:
        raise SuiteError(f"{path}: no questions in it")
    return list(questions.values())


def write_suite(path: Path, questions: Iterable[Question]) -> None:
    """Write a suite that `read_suite` reads back equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(to_json(q), ensure_ascii=False) + "\n" for q in questions), encoding="utf-8")
