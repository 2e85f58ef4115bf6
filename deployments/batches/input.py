"""A batch's input: where each of its lines stands, found in one pass that keeps none of them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from symmoe.wire.lines import BadLineError, read_line, read_object

MOST_LINES = 50_000
_BOM = b"\xef\xbb\xbf"


class BadInputError(Exception):
    """A file that is no batch at all."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Places:
    """Where the lines of a file stand: numbers from 1 on, blank ones left out, with offset and length in bytes.

    `earlier` has the lines whose id another line before them has, and that one's number.
    """

    numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    earlier: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def find_lines(path: Path, most_bytes: int, most_lines: int = MOST_LINES) -> Places:
    """Where the lines stand. Raises `BadInputError` for an empty file, one of no JSON objects, one of too many lines.

    Blocks. Of a line longer than `most_bytes` no more is read into memory than that.
    """
    places, objects, seen = Places(), False, dict[bytes, int]()
    for number, offset, length, raw in _raw_lines(path, most_bytes):
        if len(places) == most_lines:
            raise BadInputError("too_many_requests", f"the file has more than {most_lines} lines")
        places.numbers.append(number)
        places.offsets.append(offset)
        places.lengths.append(length)
        document = _object(raw)
        objects = objects or document is not None
        custom_id = None if document is None else document.get("custom_id")
        if isinstance(custom_id, str):
            name = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
            earlier = seen.setdefault(name, number)
            if earlier != number:
                places.earlier[number] = earlier
    if not len(places):
        raise BadInputError("empty_file", "the file holds no requests")
    if not objects:
        raise BadInputError(
            "invalid_json_line", "no line of the file is a JSON object; it must be JSONL, one request a line"
        )
    return places


class Lines:
    """The lines of a file, read one by one. Its contents stay readable if the file is deleted meanwhile."""

    def __init__(self, path: Path, places: Places, most_bytes: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._places, self._most = places, most_bytes
        self.numbers: Sequence[int] = places.numbers
        self._index = {number: index for index, number in enumerate(places.numbers)}

    def read(self, number: int) -> dict[str, Any]:
        """A line as an object with a `custom_id` of its own and a `body`. Raises `BadLineError`. Blocks."""
        index = self._index[number]
        offset, length = self._places.offsets[index], self._places.lengths[index]
        if length > self._most:
            raise BadLineError("line_too_long", f"line {number} is longer than {self._most} bytes")
        return read_line(
            read_object(os.pread(self._file, length, offset), number), number, self._places.earlier.get(number)
        )

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _object(raw: bytes | None) -> dict[str, Any] | None:
    if raw is not None:
        with suppress(ValueError):
            document = from_json(raw.removeprefix(_BOM), allow_inf_nan=False)
            return document if isinstance(document, dict) else None
    return None


def _raw_lines(path: Path, most: int) -> Iterator[tuple[int, int, int, bytes | None]]:
    """Number, offset, length and bytes of every line that is not blank; None for bytes that are too many."""
    with path.open("rb") as file:
        number = offset = 0
        while part := file.readline(most + 2):
            number, length = number + 1, len(part)
            raw: bytes | None = part
            while not part.endswith(b"\n") and (part := file.readline(most + 2)):
                raw, length = None, length + len(part)
            if raw is None or raw.removeprefix(_BOM).strip():
                yield number, offset, length, raw
            offset += length
