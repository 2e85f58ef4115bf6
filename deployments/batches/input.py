"""A batch's input: where each of its lines stands, found in one pass that keeps none of them."""

from __future__ import annotations

import os
import secrets
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import SchemaValidator, core_schema
from xxhash import xxh3_64_intdigest

from symmoe.batch.lines import SeenIds
from symmoe.limits import SCAN_BREATH
from symmoe.wire.lines import BadLineError, read_line, read_object

_BREATH_LINES, _BREATH_BYTES = 4096, 1 << 20
_TOKEN_BYTES, _MOST_TOKENS, _MOST_CHOICES, _OBJECT_BYTES = 4, 1 << 15, 128, 100
_BOM = b"\xef\xbb\xbf"


class BadInputError(Exception):
    """A file that is no batch at all."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoppedError(Exception):
    """The file was not looked through: whoever wanted it does not any more."""


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Places:
    """Where the lines of a file stand: numbers from 1 on, blank ones left out, with offset and length in bytes.

    `earlier` has the number of the line before it that has the same id, 0 for none; `weights` about how many bytes of
    memory a line takes while it is answered.
    """

    numbers: array[int] = field(default_factory=_column)
    offsets: array[int] = field(default_factory=_column)
    lengths: array[int] = field(default_factory=_column)
    earlier: array[int] = field(default_factory=_column)
    weights: array[int] = field(default_factory=_column)

    def __len__(self) -> int:
        return len(self.numbers)


def find_lines(path: Path, most_bytes: int, most_lines: int, stopped: Callable[[], bool]) -> Places:
    """Where the lines stand. Raises `BadInputError` for an empty file, one of no JSON objects, one of too many lines.

    Blocks, but lets others on now and then; `StoppedError` soon after it is `stopped`. Of a line longer than
    `most_bytes` no more is read into memory than that.
    """
    places, objects, seen = Places(), False, SeenIds()
    secret = secrets.randbits(64)  # else a file could be made whose ids all want one place of the table
    for number, offset, length, raw in _raw_lines(path, most_bytes, 2 * most_lines, stopped):
        if len(places) == most_lines:
            raise BadInputError("too_many_requests", f"the file has more than {most_lines} lines")
        fields = None if raw is None else _looked(raw)
        objects = objects or fields is not None
        custom_id = None if fields is None else fields["custom_id"]
        earlier = number
        if custom_id is not None:
            earlier = seen.note(xxh3_64_intdigest(custom_id.encode("utf-8", "surrogatepass"), secret) or 1, number)
        places.numbers.append(number)
        places.offsets.append(offset)
        places.lengths.append(length)
        places.earlier.append(0 if earlier == number else earlier)
        places.weights.append(0 if raw is None else _weight(raw, fields))
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

    def weight(self, number: int) -> int:
        """About how many bytes of memory a line takes while it is answered, all its choices included."""
        return self._places.weights[self._index(number)]

    def read(self, number: int) -> dict[str, Any]:
        """A line as an object with a `custom_id` of its own and a `body`. Raises `BadLineError`. Blocks."""
        index = self._index(number)
        offset, length = self._places.offsets[index], self._places.lengths[index]
        if length > self._most:
            raise BadLineError("line_too_long", f"line {number} is longer than {self._most} bytes")
        document = read_object(os.pread(self._file, length, offset), number)
        return read_line(document, number, self._places.earlier[index] or None)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _index(self, number: int) -> int:
        return bisect_left(self._places.numbers, number)


def _or_none(schema: core_schema.CoreSchema) -> core_schema.TypedDictField:
    """Something that is looked at where it is what it should be, and is None else."""
    return core_schema.typed_dict_field(core_schema.with_default_schema(schema, default=None, on_error="default"))


_COUNT = core_schema.int_schema(strict=True, ge=0)
_BODY = core_schema.typed_dict_schema(
    {name: _or_none(_COUNT) for name in ("n", "max_tokens", "max_completion_tokens")}, extra_behavior="ignore"
)
_LOOK = SchemaValidator(
    core_schema.typed_dict_schema(
        {"custom_id": _or_none(core_schema.str_schema(strict=True)), "body": _or_none(_BODY)}, extra_behavior="ignore"
    )
)
"""Reads only what is needed of a line: all of it as objects may take many times its bytes."""


def _looked(raw: bytes) -> dict[str, Any] | None:
    """What is looked at of a line; None for one that is no JSON object."""
    try:
        fields: dict[str, Any] = _LOOK.validate_json(raw.removeprefix(_BOM))
    except ValueError:
        return None
    return fields


def _weight(raw: bytes, fields: dict[str, Any] | None) -> int:
    """A line may be answered with itself, for each of its choices, and what is nested takes more than its bytes."""
    nested = len(raw) + _OBJECT_BYTES * (raw.count(b"[") + raw.count(b"{"))
    body = None if fields is None else fields["body"]
    if body is None:
        return nested
    tokens = min(body["max_completion_tokens"] or body["max_tokens"] or 0, _MOST_TOKENS)
    return nested + min(body["n"] or 1, _MOST_CHOICES) * (len(raw) + _TOKEN_BYTES * tokens)


def _raw_lines(
    path: Path, most: int, most_lines: int, stopped: Callable[[], bool]
) -> Iterator[tuple[int, int, int, bytes | None]]:
    """Number, offset, length and bytes of every line that is not blank; None for bytes that are too many."""
    with path.open("rb") as file:
        reading, number, offset = _Reading(file, most + 2, stopped), 0, 0
        while part := reading.part():
            number, length = number + 1, len(part)
            if number > most_lines:
                raise BadInputError("too_many_lines", f"the file has more than {most_lines} lines, with blank ones")
            raw: bytes | None = part
            while not part.endswith(b"\n") and (part := reading.part()):
                raw, length = None, length + len(part)
            if raw is None or raw.removeprefix(_BOM).strip():
                yield number, offset, length, raw
            offset += length


class _Reading:
    """A file that is read line by line, with a pause now and then, in which it is seen whether to stop."""

    def __init__(self, file: BinaryIO, most: int, stopped: Callable[[], bool]) -> None:
        self._file, self._most, self._stopped = file, most, stopped
        self._lines = self._bytes = 0

    def part(self) -> bytes:
        """A line, or the next part of one that is too long; empty at the end. Raises `StoppedError`."""
        if self._lines >= _BREATH_LINES or self._bytes >= _BREATH_BYTES:
            if self._stopped():
                raise StoppedError
            time.sleep(SCAN_BREATH)
            self._lines = self._bytes = 0
        part = self._file.readline(self._most)
        self._lines, self._bytes = self._lines + 1, self._bytes + len(part)
        return part
