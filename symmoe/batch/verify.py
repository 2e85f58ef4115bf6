"""Whether an output answers its input: every line once, in order, and nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import from_json
from xxhash import xxh3_64_intdigest

from symmoe.errors import JobError

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


def verify(source: Path, output: Path) -> Verification:
    """Compare two files of JSON lines from the files alone, in 16 bytes a line of memory.

    A row names its line by `custom_id`, or where that is null by the number in its error. Raises `JobError` for a file
    that cannot be opened.
    """
    found = Verification()
    names, numbers = array("Q"), array("Q")
    seen: set[int] = set()
    for number, name in _lines(source):
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


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Number of each line of an input, and what stands for its id."""
    for number, raw in _raw(path):
        try:
            row = from_json(raw)
            ident = row["custom_id"] if "custom_id" in row else row["id"]
        except (ValueError, TypeError, KeyError):
            ident = None
        yield number, _name(ident)


def _rows(path: Path) -> Iterator[tuple[int, int, bool]]:
    """What stands for the id of each row of an output, or the number of its line, and whether it is an answer."""
    for _, raw in _raw(path):
        try:
            row = from_json(raw)
            error, response, ident = row["error"], row["response"], row["custom_id"]
            line = 0 if ident is not None else int(error["line"])
            yield _name(ident), line, error is None and response["status_code"] == 200
        except (ValueError, TypeError, KeyError):
            yield 0, 0, False


def _raw(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, raw in enumerate(file, 1):
            if raw.strip(b"\xef\xbb\xbf \t\r\n"):
                yield number, raw


def _name(ident: object) -> int:
    return xxh3_64_intdigest(str(ident).encode("utf-8", "surrogatepass")) if ident is not None else 0
