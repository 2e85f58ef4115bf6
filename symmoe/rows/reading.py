"""Reads rows from files of questions: JSON lines, a JSON array, CSV, TSV, plain lines, Parquet and Arrow.

The format is judged by content, and by name only where that leaves it open. Rows stay as they are: columns get no
types, and an unreadable row is reported in its place.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import shutil
import tempfile
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import IO, Any, BinaryIO

from pydantic_core import from_json
from xxhash import xxh3_128_digest

from symmoe.errors import InputError, RequestError
from symmoe.rows.files import File, Meter, find_files, opened
from symmoe.types.quick import quick

MOST_ROW_BYTES = 1 << 20
_AT_ONCE = 256
_UNKEPT = bytes(16)
"""The digest of a line that is too long, as a table of digests has it."""
_LONGEST_TEXT = 64 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],"]', re.DOTALL)
_DELIMITERS = ",;\t|"
_HEADINGS = frozenset(
    "id prompt messages question questions problem instruction input query conversations turns answer text".split()
)
"""Names of columns by which the first line of a file is known for a header, whatever the file is called."""


@quick(frozen=True, slots=True)
class Row:
    """One row as it came, and where it was.

    `number` counts from 1 within the file `source`: lines, blank ones included, if rows are lines, else rows. `row` is
    a JSON value, or the text of what is none; None if it was too long to keep. `code` and `fault` say why a row cannot
    be read. `digest` (16 bytes) is that of the row's bytes, of which there are `size`. `place` counts from 1 over all
    files. `known` is what was known of it before.
    """

    source: str = ""
    number: int = 0
    row: Any = None
    digest: bytes = b""
    code: str = ""
    fault: str = ""
    size: int = 0
    place: int = 0
    known: Any = None


Known = Callable[[int, bytes], Any]
"""What is known of a row, by its number over all files and its digest; None for nothing. Asked once of each."""


class Rows:
    """The rows of files, in order, read on demand. Blank lines are skipped.

    Files that cannot be found or opened raise `InputError` here; one that is damaged further on ends in a faulty row.
    JSON that is `known` is not parsed: its `row` is None. JSON lines are skipped as long as their digests equal those
    in `standing`; `passed` are their numbers over all files, and the first that differs sets `differs`.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        known: Known = lambda number, digest: None,
        standing: Iterable[bytes] = (),
    ) -> None:
        self.files, self._known, self._base = find_files(sources), known, 0
        self._standing, self.passed, self.differs = iter(standing), array("Q"), False
        sizes = [file.size for file in self.files]
        self.meter = Meter(None if None in sizes else sum(size or 0 for size in sizes))
        self._rows = self._all([self._begin(file) for file in self.files[:1]])

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    def close(self) -> None:
        """Close the file that is open."""
        self._rows.close()

    def _all(self, iterators: list[Iterator[Row]]) -> Generator[Row]:
        for file in self.files:
            number = 0
            try:
                for row in iterators.pop() if iterators else self._begin(file):
                    number = row.number
                    yield row if self._base == 0 else replace(row, place=self._base + number)
                number = max(number, self._last_passed)
            except (InputError, OSError) as error:
                number = max(number, self._last_passed)
                if number == 0 and file is self.files[0]:
                    raise
                number += 1
                fault = f"behind row {number - 1}: {error}"
                known = self._known_here(number, b"")
                yield Row(file.name, number, None, b"", "damaged_file", fault, place=self._base + number, known=known)
            self._base += number

    def _begin(self, file: File) -> Iterator[Row]:
        """A file's rows; its first bytes are read at once."""
        before = self.meter.done
        head, stream = opened(file, self.meter)
        kind = _kind(file, head)
        if kind in (".parquet", ".arrow"):

            def tell(share: float) -> None:
                self.meter.done = before + round(share * (file.size or 0))

            return self._asked(_columns(file, kind, head, stream, tell))
        if kind == ".jsonl":
            return self._json_lines(file.name, stream)
        if kind == ".json":
            return _array(file.name, stream, self._known_here)
        if kind == ".txt":
            return self._asked(_words(file.name, stream))
        return self._asked(_table(file.name, stream, "\t" if file.kind == ".tsv" else ""))

    def _json_lines(self, source: str, stream: BinaryIO) -> Iterator[Row]:
        lines = _lines(stream)
        first = None if self.differs else self._unpassed(lines)
        for number, raw in chain([] if first is None else [first], lines):
            if raw is None:
                yield _long(source, number, self._known_here)
            else:
                yield _object_row(source, number, raw, self._known_here)

    def _unpassed(self, lines: Iterator[tuple[int, bytes | None]]) -> tuple[int, bytes | None] | None:
        """The first line that is not passed over. Nothing is made of the others: they may be a million."""
        digests, base, passed = self._standing, self._base, self.passed.append
        for number, raw in lines:
            digest = next(digests, None)
            if digest is None or digest != (_UNKEPT if raw is None else xxh3_128_digest(raw.strip())):
                self.differs = digest is not None
                return number, raw
            passed(base + number)
        return None

    @property
    def _last_passed(self) -> int:
        """The number, within the file that is read, of the last line of it that was passed over; 0 for none."""
        return max(0, self.passed[-1] - self._base) if self.passed else 0

    def _asked(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            known = self._known_here(row.number, row.digest)
            yield row if known is None else replace(row, known=known)

    def _known_here(self, number: int, digest: bytes) -> Any:
        return self._known(self._base + number, digest)


def _kind(file: File, head: bytes) -> str:
    """What a file is: `.csv` stands for every table of text, whatever stands between its columns."""
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return ".arrow"
    named, start = ".jsonl" if file.kind == ".ndjson" else file.kind, head.lstrip()
    if b"\x00" in head and named != ".jsonl" and not _is_text(head):
        raise InputError(
            f"{file.name}: is no text", hint="text is read in UTF-8, or in UTF-16 behind its byte order mark"
        )
    line, inside = start.split(b"\n", 1)[0].strip(), start[1:].lstrip()
    if start.startswith(b"[") and (inside.startswith(b"{") or (named == ".json" and inside[:1] in b"]")):
        return ".json"
    if start.startswith(b"{") and named != ".jsonl":
        return ".jsonl" if b":" in line else ".json"
    if named in (".csv", ".tsv") or _is_header(line):
        return ".csv"
    if named in ("", ".txt", ".jsonl", ".json"):
        return named or ".txt"
    hint = f"it begins with {line[:60].decode('utf-8', 'replace')!r}; call it .txt if it is a question a line"
    raise InputError(f"{file.name}: cannot be told what it is" if start else f"{file.name}: is empty", hint=hint)


def _is_text(head: bytes) -> bool:
    """Whether a file that begins so is a text with a NUL in a cell: it is UTF-8, and none is in its first line."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\x00" not in head.split(b"\n", 1)[0]


def _is_header(line: bytes) -> bool:
    """Whether a line names columns, at least two, one of which is known."""
    text = line.decode("utf-8", "replace")
    cells = [cell.strip().strip('"').lower() for cell in text.split(_delimiter(text))]
    return len(cells) > 1 and not _HEADINGS.isdisjoint(cells) and all(re.fullmatch(r"[\w .-]{1,40}", c) for c in cells)


def _delimiter(header: str, usual: str = "") -> str:
    """What stands between the columns of a table with this header: the `usual`, unless another is there more often."""
    outside = re.sub(r'"[^"]*"', "", header)
    return max(usual + _DELIMITERS, key=outside.count)


def json_object(raw: bytes, number: int) -> dict[str, Any]:
    """A line as a JSON object. Raises `RequestError`."""
    try:
        document = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        message = f"line {number} is not valid JSON: {error}"[:300]
        raise RequestError(message, code="invalid_json_line") from error
    if not isinstance(document, dict):
        raise RequestError(f"line {number} is not a JSON object", code="invalid_json_line")
    return document


def _object_row(source: str, number: int, raw: bytes, known: Known, what: str = "line") -> Row:
    raw = raw.strip()
    digest = xxh3_128_digest(raw)
    known_line = known(number, digest)
    if known_line is not None:
        return Row(source, number, None, digest, size=len(raw), known=known_line)
    try:
        return Row(source, number, json_object(raw, number), digest, size=len(raw))
    except RequestError as error:
        message = what + str(error).removeprefix("line")
        return Row(source, number, raw.decode("utf-8", "replace"), digest, error.code, message, len(raw))


def _long(source: str, number: int, known: Known, what: str = "line") -> Row:
    return replace(_too_long(source, number, what), known=known(number, b""))


def _too_long(source: str, number: int, what: str = "line") -> Row:
    message = f"{what} {number} is longer than {MOST_ROW_BYTES} bytes"
    return Row(source, number, None, b"", "line_too_long", message)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one that is too long."""
    number = 0
    with stream:
        while raw := stream.readline(MOST_ROW_BYTES + 1):
            number += 1
            if len(raw) > MOST_ROW_BYTES and not raw.endswith(b"\n"):
                while (rest := stream.readline(MOST_ROW_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            elif not raw.isspace():
                yield number, raw


def _words(source: str, stream: BinaryIO) -> Iterator[Row]:
    """A question a line."""
    for number, raw in _lines(stream):
        if raw is None:
            yield _too_long(source, number)
            continue
        raw = raw.strip()
        try:
            yield Row(source, number, {"prompt": raw.decode()}, xxh3_128_digest(raw), size=len(raw))
        except UnicodeDecodeError as error:
            fault = f"line {number} is not UTF-8 ({error})"
            yield Row(source, number, raw.decode("utf-8", "replace"), xxh3_128_digest(raw), "invalid_text", fault)


def _array(source: str, stream: BinaryIO, known: Known) -> Iterator[Row]:
    """The objects of one JSON array, of which no more is held than one. It may be the one list in an object."""
    number = 0
    with stream:
        for raw in _elements(stream, source):
            number += 1
            yield _long(source, number, known, "row") if raw is None else _object_row(source, number, raw, known, "row")


def _elements(stream: BinaryIO, source: str) -> Iterator[bytes | None]:
    """The elements of the array that a stream is, as they are written; None for one that is too long."""
    buffered, depth, start, place = b"", 0, 0, 0
    kept = True
    while True:
        match = _TOKEN.search(buffered, place)
        if match is None or match.group() == b'"':  # no mark, or a text that is not all there
            at = match.start() if match else len(buffered)
            kept = kept and len(buffered) - start <= MOST_ROW_BYTES
            dropped = start if kept and depth else at
            more = stream.read(max(1 << 16, len(buffered) - at))
            if not more or len(buffered) - at > _LONGEST_TEXT:
                raise InputError(f"{source}: the JSON array does not come to its end", hint="was it cut short?")
            buffered, place, start = buffered[dropped:] + more, at - dropped, max(0, start - dropped)
            continue
        mark, place = match.group(), match.end()
        if mark in (b"{", b"["):
            if depth == 0 and mark == b"{":
                hint = "rows are the objects of a JSON array, or an object a line"
                raise InputError(f"{source}: is one JSON object", hint=hint)
            start = start if depth else place
            depth += 1
        elif mark in (b"}", b"]") or (mark == b"," and depth == 1):
            depth -= mark != b","
            if depth > 1 or (depth == 1 and mark != b","):
                continue
            raw = buffered[start : place - 1].strip() if kept else b""
            if not kept or len(raw) > MOST_ROW_BYTES:
                yield None
            elif raw or depth:
                yield raw
            start, kept = place, True
            if depth <= 0:
                break
    if (buffered[place:] + stream.read(1 << 16)).strip():
        raise InputError(f"{source}: something stands behind the JSON array")


def _table(source: str, stream: BinaryIO, usual: str) -> Iterator[Row]:
    """The rows of a table with a header, every cell a text."""
    lines = _CellLines(stream)
    csv.field_size_limit(MOST_ROW_BYTES)
    with stream:
        header = next(lines, "")
        delimiter = _delimiter(header, usual)
        reader, number, more = csv.reader(chain([header], lines), delimiter=delimiter, strict=True), 0, True
        try:
            named = next(reader, [])
        except csv.Error as error:
            if lines.count > 1:
                hint = "is a quote in it opened and not closed?"
                raise InputError(f"{source}: its header cannot be read ({error})", hint=hint) from error
            named = next(csv.reader([header], delimiter=delimiter))  # of one line any quotes are taken
        names = _names(source, named)
        while more:
            lines.too_long, first_line, fault = False, lines.count + 1, ""
            cells: list[str] = []
            try:
                cells = next(reader)
            except StopIteration:
                more = False
            except csv.Error as error:
                fault = f"{error}; a quote that is opened and not closed?"
            if cells or fault or lines.too_long:
                number += 1
                yield _table_row(source, number, first_line, names, cells, fault, lines.too_long)


def _table_row(
    source: str, number: int, line: int, names: Sequence[str], cells: Sequence[str], fault: str, too_long: bool
) -> Row:
    if too_long:
        return _too_long(source, number, "row")
    text = "\x1f".join(cells)
    if not fault and len(cells) != len(names):
        fault = f"it has {len(cells)} cells and the header names {len(names)} columns"
    if not fault and not text.isascii() and _SURROGATE.search(text):
        fault = "it is not UTF-8"
    raw = text.encode("utf-8", "surrogateescape")
    digest = xxh3_128_digest(raw)
    if fault:
        message = f"row {number} (line {line}): {fault}"[:300]
        return Row(source, number, [_SURROGATE.sub("�", cell) for cell in cells], digest, "invalid_row", message)
    return Row(source, number, dict(zip(names, cells, strict=True)), digest, size=len(raw))


def _names(source: str, cells: Sequence[str]) -> list[str]:
    """The names of a header's columns; one without a name has its number."""
    names = [_SURROGATE.sub("�", cell.strip()) or f"column {place}" for place, cell in enumerate(cells, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source}: two columns are called {twice[0]!r}", hint="rename one in the first line")
    return names


class _CellLines:
    """Lines of a table as text. One that is too long is left out, and said of."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.count, self.too_long = stream, 0, False

    def __iter__(self) -> _CellLines:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MOST_ROW_BYTES + 1)
        if not raw:
            raise StopIteration
        self.count += 1
        if len(raw) > MOST_ROW_BYTES and not raw.endswith(b"\n"):
            self.too_long = True
            while (rest := self._stream.readline(MOST_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            return "\n"
        return raw.decode("utf-8", "surrogateescape")


def _columns(file: File, kind: str, head: bytes, stream: BinaryIO, tell: Callable[[float], None]) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file. What is packed or comes through a pipe is laid on disk first.

    `tell` is given the part of the file that was read.
    """
    import pyarrow

    number = 0
    with stream, _seekable(file, head, stream) as lying:
        try:
            for batch, share in _batches(kind, head, lying):
                tell(share)
                for row in _values(batch):
                    number += 1
                    if isinstance(row, Exception):
                        fault = f"row {number} cannot be read: {row}"[:300]
                        yield Row(file.name, number, None, b"", "invalid_row", fault)
                        continue
                    row, text = _as_json(row)
                    if len(text) > MOST_ROW_BYTES:
                        yield _too_long(file.name, number, "row")
                    else:
                        raw = text.encode()
                        yield Row(file.name, number, row, xxh3_128_digest(raw), size=len(raw))
        except pyarrow.ArrowException as error:
            raise InputError(f"{file.name}: is damaged ({str(error)[:200]})") from error


def _values(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """The rows of a batch; in the place of one with a value that Python cannot hold (times, text) what it says."""
    try:
        yield from batch.to_pylist()
    except (ValueError, ArithmeticError, LookupError) as error:
        if batch.num_rows == 1:
            yield error
        else:
            for place in range(batch.num_rows):
                yield from _values(batch.slice(place, 1))


def _as_json(row: Any) -> tuple[Any, str]:
    """A row without NaN, which JSON has not, and its text."""
    try:
        return row, json.dumps(row, default=str, allow_nan=False)
    except ValueError:
        return without_nan(row), json.dumps(row, default=str)


def without_nan(value: Any) -> Any:
    """A JSON value with null in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _seekable(file: File, head: bytes, stream: BinaryIO) -> IO[bytes]:
    if file.name != "-":
        reopened = file.open()
        if reopened.seekable() and reopened.read(8) == head[:8]:
            return reopened
        reopened.close()
    lying = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    shutil.copyfileobj(stream, lying)
    return lying


def _batches(kind: str, head: bytes, file: IO[bytes]) -> Iterator[tuple[Any, float]]:
    """A file's rows, few at once, each time with the part of the file that this is the end of."""
    size = file.seek(0, 2)
    file.seek(0)
    if kind == ".parquet":
        from pyarrow.parquet import ParquetFile

        parquet, done = ParquetFile(file), 0
        for batch in parquet.iter_batches(_AT_ONCE, use_threads=False):
            done += batch.num_rows
            yield batch, done / max(1, parquet.metadata.num_rows)
        return
    from pyarrow import ipc

    if head.startswith(b"ARROW1"):
        whole = ipc.open_file(file)
        count = whole.num_record_batches
        batches = ((whole.get_batch(place), (place + 1) / count) for place in range(count))
    else:
        batches = ((batch, file.tell() / size) for batch in ipc.open_stream(file))
    before = 0.0
    for batch, share in batches:
        for place in range(0, batch.num_rows, _AT_ONCE):
            part = min(1.0, (place + _AT_ONCE) / batch.num_rows)
            yield batch.slice(place, _AT_ONCE), before + (share - before) * part
        before = share
