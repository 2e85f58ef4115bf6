"""Windows that wait on disk while one expert after another is asked in all of them, so that each is loaded once."""

from __future__ import annotations

import pickle  # noqa: TID251 - of a file without a name, which no other process can write
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Generic, TypeVar

from symmoe.answering import Ask
from symmoe.types import Recruitment

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the questions of a window ask first, and the digests of the lines behind them, by query."""

    asks: tuple[Ask, ...]
    digests: Mapping[str, str]

    @property
    def experts(self) -> frozenset[str]:
        """Who is asked."""
        return frozenset(each.expert for ask in self.asks for each in ask.recruitment.assignments)

    def of(self, experts: Sequence[str]) -> list[Ask]:
        """What is asked of some experts."""
        mine = ((ask, tuple(a for a in ask.recruitment.assignments if a.expert in experts)) for ask in self.asks)
        return [Ask(ask.query, Recruitment(ask.query.id, wanted, {})) for ask, wanted in mine if wanted]


@dataclass(frozen=True, slots=True)
class Place(Generic[Value]):
    """Where a value stands in a spool, and its size, in bytes."""

    start: int
    size: int


class Spool:
    """Values on disk, for this process alone: the file has no name, and goes when it is closed, however that comes."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`

    def put(self, value: Value) -> Place[Value]:
        """Write a value."""
        start = self._file.seek(0, 2)
        pickle.dump(value, self._file, pickle.HIGHEST_PROTOCOL)
        return Place(start, self._file.tell() - start)

    def get(self, place: Place[Value]) -> Value:
        """The value at a place."""
        self._file.seek(place.start)
        value: Value = pickle.loads(self._file.read(place.size))  # noqa: S301 - what this process wrote
        return value

    def clear(self) -> None:
        """Drop all values."""
        self._file.truncate(0)

    def close(self) -> None:
        """Drop all values and give the file up."""
        self._file.close()
