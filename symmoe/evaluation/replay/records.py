"""Recorded scores: sets of questions with what every model earned on each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from symmoe.errors import SuiteError

_SPLIT_SUFFIX = re.compile(r"[-_](train|test)$")


class _Row(BaseModel):
    question: str = Field(min_length=1)
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1)


_ROWS = TypeAdapter(list[_Row])


@dataclass(frozen=True, slots=True)
class RecordedSet:
    """One set: `scores[i, j]` in 0..1 is what model `j` earned on question `i`."""

    name: str
    questions: tuple[str, ...]
    models: tuple[str, ...]
    scores: NDArray[np.float64]


def read_sets(directory: Path, models: Sequence[str] | None = None) -> list[RecordedSet]:
    """Read every JSON file of a directory as a set named after the file, less a `_train` or `_test` at its end.

    All sets must score the same models: those given, or those of the first file, whose order then counts. `SuiteError`
    names the file and the row at fault.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise SuiteError(f"{directory}: no JSON file in it")
    sets: list[RecordedSet] = []
    for file in files:
        sets.append(_read_set(file, models or (sets[0].models if sets else None)))
        if sets[-1].name in [each.name for each in sets[:-1]]:
            raise SuiteError(f"{file}: another file of the directory is the set {sets[-1].name!r} too")
    return sets


def _read_set(file: Path, models: Sequence[str] | None) -> RecordedSet:
    try:
        rows = _ROWS.validate_json(file.read_bytes())
    except OSError as error:
        raise SuiteError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SuiteError(f"{file}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from error
    if not rows:
        raise SuiteError(f"{file}: no questions in it")
    names = tuple(models or rows[0].scores)
    for number, row in enumerate(rows):
        if set(row.scores) != set(names):
            odd = ", ".join(sorted(set(row.scores) ^ set(names)))
            raise SuiteError(f"{file}: {number}.scores: not the models of the other rows and sets ({odd})")
    scores = np.array([[row.scores[name] for name in names] for row in rows])
    return RecordedSet(_SPLIT_SUFFIX.sub("", file.stem), tuple(row.question for row in rows), names, scores)


def write_set(path: Path, recorded: RecordedSet) -> None:
    """Write a set that `read_sets` reads back equal."""
    rows = [
        {"question": question, "scores": dict(zip(recorded.models, map(float, earned), strict=True))}
        for question, earned in zip(recorded.questions, recorded.scores, strict=True)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
