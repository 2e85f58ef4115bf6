"""Whether an output answers its input: every line once, in order, and nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from xxhash import xxh3_64_intdigest

from symmoe.batch.lines import drawn
from symmoe.errors import RequestError
from symmoe.rows.reading import Rows
from symmoe.rows.shapes import Reading

_EXAMPLES = 5
_LINE, _ID = "line", "id"


@dataclass(slots=True)
class Verification:
    """What was found. `examples` name a few of each kind: lines by their number in the input, rows by theirs."""

    lines: int = 0
    rows: int = 0
    answered: int = 0
    failed: int = 0
    missing: int = 0
    twice: int = 0
    strange: int = 0
    moved: int = 0
    examples: dict[str, list[int]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every line has its row, and in order."""
        return not (self.missing or self.twice or self.strange or self.moved)

    def note(self, kind: str, number: int) -> None:
        """One more of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(found := self.examples.setdefault(kind, [])) < _EXAMPLES:
            found.append(number)


def verify(
    sources: Sequence[str | Path],
    output: Path,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    limit: int | None = None,
    share: float = 1.0,
) -> Verification:
    """Compare files of questions with an output from the files alone, in 16 bytes a line of memory.

    Of the questions `limit` at most and a `share` count, as `LineReader.read` has it. A row names its line by its id,
    or where a line could not be asked by its number. Raises `InputError` for a file that cannot be opened.
    """
    found = Verification()
    names, numbers = array("Q"), array("Q")
    seen: set[int] = set()
    for number, name in islice(_lines(sources, reading, share), limit):
        names.append(name)
        numbers.append(number)
    found.lines = len(names)
    place = 0
    late: dict[int, int] = {}
    for row, (name, line, answered) in enumerate(_rows(output), 1):
        found.rows += 1
        found.answered += answered
        found.failed += not answered
        if place < len(names) and (line == numbers[place] if line else name == names[place]):
            place += 1
            continue
        late[row] = line or name
    if late or place < len(names):
        _account(found, names, numbers, output, seen)
    return found


def _account(found: Verification, names: array[int], numbers: array[int], output: Path, seen: set[int]) -> None:
    """What is wrong, where the rows are not simply the lines."""
    by_name: dict[int, int] = {}
    by_number = {number: place for place, number in enumerate(numbers)}
    for place, name in enumerate(names):
        by_name.setdefault(name, place)
    last = -1
    for row, (name, line, _) in enumerate(_rows(output), 1):
        where = by_number.get(line) if line else by_name.get(name)
        if where is None:
            found.note("strange", row)
        elif where in seen:
            found.note("twice", row)
        else:
            seen.add(where)
            if where < last:
                found.note("moved", row)
            last = max(last, where)
    for place, number in enumerate(numbers):
        if place not in seen:
            found.note("missing", number)


def _lines(sources: Sequence[str | Path], reading: Reading, share: float) -> Iterator[tuple[int, int]]:
    """Number of each line of an input that is in a share of it, and what stands for its id."""
    for row in Rows(sources):
        if not drawn(row.digest, share):
            continue
        ident = None
        with suppress(RequestError):
            if isinstance(row.row, dict):
                ident = row.row["custom_id"] if "custom_id" in row.row else reading.ident(row.row)
        number = row.place or row.number
        yield number, _name(ident if ident is not None else number)


def _rows(path: Path) -> Iterator[tuple[int, int, bool]]:
    """What stands for the id of each row of an output, or the number of its line, and whether it is an answer."""
    for each in Rows([path]):
        row = each.row
        try:
            if "symmoe_id" in row:
                line, error = row["symmoe_line"] or 0, row["symmoe_error_code"] or None
                yield _name(row["symmoe_id"]), int(line), error is None
            elif "result" in row:
                yield _name(row["custom_id"]), 0, row["result"]["type"] == "succeeded"
            else:
                error, response, ident = row["error"], row["response"], row["custom_id"]
                line = 0 if ident is not None else int(error["line"])
                yield _name(ident), line, error is None and response["status_code"] == 200
        except (ValueError, TypeError, KeyError):
            yield 0, 0, False


def _name(ident: object) -> int:
    return xxh3_64_intdigest(str(ident).encode("utf-8", "surrogatepass")) if ident is not None else 0
