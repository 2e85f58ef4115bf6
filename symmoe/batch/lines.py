"""Reading a batch file: each line is a request or says what is wrong with it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from symmoe.config import Pool
from symmoe.errors import JobError, RequestError
from symmoe.policy import AUTO, Policy, catalogue, known_model, policy_for
from symmoe.types import Query
from symmoe.wire.chat import ChatRequest, line_request, without_tools
from symmoe.wire.lines import MOST_ID, BadLineError, read_line, read_object

MAX_LINE_BYTES = 1 << 20
MOST_CHOICES = 16
_CHOICE = "\x1f"


@dataclass(frozen=True, slots=True)
class Came:
    """How a line came: the row itself, where it stood, and what tells it from others.

    `row` is the row as JSON has it, or its text where that is no JSON; None where it was too long to be kept. `number`
    counts from 1 within the file `source`. `digest` (16 bytes) is equal for rows that say the same in the same bytes.
    """

    source: str = ""
    number: int = 0
    row: Any = None
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that can be asked: a query for each of its choices, and how they are answered.

    `number` counts from 1 over all files of a job. `ignored` are its fields that have no effect.
    """

    number: int
    id: str
    model: str
    queries: tuple[Query, ...]
    policy: Policy
    ignored: tuple[str, ...] = ()
    came: Came = field(default=Came(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot, and why. `id` is its own where it could be read and no line before it has it.

    `param` is the field at fault and `status` what HTTP calls it, for a request whose line is whole; else `status` is
    None.
    """

    number: int
    id: str | None
    code: str
    message: str
    param: str | None = None
    status: int | None = None
    came: Came = field(default=Came(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class KnownLine:
    """A line that an earlier run has answered: it is not parsed again. `id_hash` is its id's, 0 where it has none.

    `place` is the row of that run's files where its answer stands; None where it stands in its place already.
    """

    number: int
    digest: bytes
    id_hash: int
    place: tuple[int, int] | None = None


Known = Callable[[int, bytes], KnownLine | None]
"""Tells by number and digest whether a line was answered before."""


class SeenIds:
    """Which line used an id first, in 12 bytes an id and half as much again: a table of hashes, no Python object each.

    Two ids of a million have one hash of 64 bits with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._count, self._hashes, self._numbers = 0, array("Q", bytes(8 * 1024)), array("I", bytes(4 * 1024))

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return 12 * len(self._hashes)

    def first_use(self, ident: str, number: int) -> int:
        """The number of the line that has used the id before, else this one's, which has it from now on."""
        return self.note(id_hash(ident), number)

    def note(self, hashed: int, number: int) -> int:
        """The same for the hash of an id."""
        if 4 * self._count >= 3 * len(self._hashes):
            self._grow()
        place = self._place(hashed)
        if not self._hashes[place]:
            self._hashes[place], self._numbers[place] = hashed, number
            self._count += 1
        return self._numbers[place]

    def _place(self, hashed: int) -> int:
        """Where the hash stands, or the free place where it belongs."""
        hashes, size = self._hashes, len(self._hashes)
        place = hashed % size
        while hashes[place] not in (0, hashed):
            place = (place + 1) % size
        return place

    def _grow(self) -> None:
        hashes, numbers = self._hashes, self._numbers
        size = len(hashes) * 3 // 2
        self._hashes, self._numbers = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        for hashed, number in zip(hashes, numbers, strict=True):
            if hashed:
                place = self._place(hashed)
                self._hashes[place], self._numbers[place] = hashed, number


def id_hash(ident: str) -> int:
    """What stands for an id: 64 bits, never 0."""
    return xxh3_64_intdigest(ident.encode("utf-8", "surrogatepass")) or 1


class LineReader:
    """Reads lines in OpenAI's batch form, or `{"id", "prompt"}` with the fields of a request beside them.

    `model`, `k` and the other fields of a request mean what they mean online; where a line leaves `k` open it is the
    one given here, else the pool's.
    """

    def __init__(self, pool: Pool, k: int | None = None) -> None:
        self._pool, self._k = pool, k
        self._models = catalogue(pool)

    def read(self, path: Path, known: Known = lambda number, digest: None) -> Generator[GoodLine | BadLine | KnownLine]:
        """Every line of a file, one after the other; blank ones are passed over, and those that are `known` not parsed.

        Only a file that cannot be opened raises, at once. Memory does not grow with the file but for 18 bytes an id: a
        line over `MAX_LINE_BYTES` is not kept. Every id stands for one line, the first that has it: a second use is an
        error without an id.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise JobError(f"{path}: cannot be read ({error.strerror})") from error
        return self._lines(str(path), file, known)

    def _lines(self, source: str, file: BinaryIO, known: Known) -> Generator[GoodLine | BadLine | KnownLine]:
        seen = SeenIds()
        for number, raw in _raw_lines(file):
            digest = b"" if raw is None else xxh3_128_digest(raw.strip())
            before = known(number, digest)
            if before is not None and (not before.id_hash or seen.note(before.id_hash, number) == number):
                yield before
            else:
                yield _once(self._line(number, raw, source, digest), seen)

    def _line(self, number: int, raw: bytes | None, source: str, digest: bytes) -> GoodLine | BadLine:
        if raw is None:
            message = f"line {number} is longer than {MAX_LINE_BYTES} bytes"
            return BadLine(number, None, "line_too_long", message, came=Came(source, number))
        ident, row = None, None
        try:
            row = read_object(raw, number)
            came = Came(source, number, row, digest)
            ident, body = _parts(row, number)
            return replace(self._good(number, ident, line_request(body)), came=came)
        except RequestError as error:
            came = Came(source, number, raw.decode("utf-8", "replace").strip() if row is None else row, digest)
            if isinstance(error, BadLineError):
                return BadLine(number, error.custom_id, error.code, str(error), came=came)
            return BadLine(number, ident, error.code, str(error), error.param, error.status, came)

    def _good(self, number: int, ident: str, request: ChatRequest) -> GoodLine:
        request.check(MOST_CHOICES)
        options = request.symmoe
        policy = policy_for(
            self._pool,
            known_model(self._models, request.model),
            options.k or self._k,
            options.budget,
            options.aggregate,
            options.quality,
        )
        query = request.query(request.sampling(self._pool.sampling))
        policy = policy.excluding(without_tools(self._pool, policy.expert, query.sampling))
        choices = tuple(_choices(query, ident, request.n or 1))
        return GoodLine(number, ident, request.model, choices, policy, request.ignored)


def _parts(row: Mapping[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    """The id and the request of a row in either form."""
    document = dict(row)
    if "body" not in document and "custom_id" not in document and "prompt" not in document:
        message = f"line {number} has neither a prompt and its id, nor a custom_id and a body"
        raise BadLineError("invalid_line", message)
    if "body" in document or "custom_id" in document:
        line = read_line(document, number)
        return str(line["custom_id"]), line["body"]
    named = document.pop("id", None)
    ident = str(named) if type(named) is int and -(2**63) <= named < 2**63 else named
    if not isinstance(ident, str) or not 0 < len(ident) <= MOST_ID:
        raise BadLineError(
            "invalid_id", f"line {number}: id must be a whole number or a text of 1 to {MOST_ID} characters"
        )
    prompt = document.pop("prompt")
    if not isinstance(prompt, str):
        raise BadLineError("invalid_prompt", f"line {number}: prompt must be a text", ident)
    return ident, {"model": AUTO, "messages": [{"role": "user", "content": prompt}], **document}


def _choices(query: Query, ident: str, n: int) -> Iterator[Query]:
    """A query for each choice, under an id and, where one was given, a seed of its own."""
    seed = query.sampling.seed
    for number in range(n):
        own = ident if number == 0 else f"{ident}{_CHOICE}{number}"
        sampling = query.sampling if seed is None else replace(query.sampling, seed=seed + number)
        yield replace(query, id=own, sampling=sampling)


def _once(line: GoodLine | BadLine, seen: SeenIds) -> GoodLine | BadLine:
    earlier = line.number if line.id is None else seen.first_use(line.id, line.number)
    if earlier == line.number:
        return line
    if isinstance(line, BadLine):
        return replace(line, id=None)
    message = f"line {line.number}: the id {line.id!r} was already used on line {earlier}"
    return BadLine(line.number, None, "duplicate_custom_id", message, came=line.came)


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their ends; None for one that is too long."""
    with file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            whole = raw.endswith(b"\n") or len(raw) <= MAX_LINE_BYTES
            while not whole:
                rest = file.readline(MAX_LINE_BYTES)
                whole = rest.endswith(b"\n") or not rest
                raw = b""
            if not raw:
                yield number, None
            elif raw.removeprefix(_BOM).strip():
                yield number, raw


_BOM = b"\xef\xbb\xbf"
