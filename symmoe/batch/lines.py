"""Reads questions for a batch: each row of any file becomes a question, or an error that says what is wrong with it."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from xxhash import xxh3_64_intdigest

from symmoe.config import Pool
from symmoe.errors import InputError, RequestError
from symmoe.images import settled
from symmoe.policy import AUTO, Policy, catalogue, known_model, policy_for
from symmoe.rows.files import CHUNK
from symmoe.rows.reading import Row, Rows
from symmoe.rows.shapes import Asked, Reading, what_to_write
from symmoe.types import Message, Query, Refusal, Trace
from symmoe.types.quick import quick
from symmoe.wire.chat import ChatRequest, fitting, line_request, request_error
from symmoe.wire.completions import CompletionRequest
from symmoe.wire.lines import ENDPOINT, BadLineError, read_line
from symmoe.wire.messages import MessageRequest
from symmoe.wire.responses import ResponseRequest

MOST_CHOICES = 16
COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
_CHOICE, _TURN = "\x1f", "\x1e"
_PEEKED, _PEEKED_BYTES = 1000, 8 << 20
_OPTIONS = frozenset({*ChatRequest.model_fields, *ChatRequest.REFUSED} - {"messages", "user", "safety_identifier"})
_SHAPED = frozenset("prompt messages question problem instruction conversations turns".split())


@quick(frozen=True, slots=True)
class GoodLine:
    """A line that can be asked: a query for each of its choices, and how they are answered.

    `number` counts from 1 over all files of a job. `ignored` are its fields without effect. `door` is the API path that
    the request is for, "" for a row that is no request, whose `shape` names the columns that were read. `later` are
    questions to ask after the answer. `named` says whether the id is the row's own.
    """

    number: int
    id: str
    model: str
    queries: tuple[Query, ...]
    policy: Policy
    ignored: tuple[str, ...] = ()
    origin: Row = field(default=Row(), compare=False, repr=False)
    door: str = ENDPOINT
    shape: str = ""
    later: tuple[str, ...] = ()
    named: bool = True

    def after(self, results: Sequence[Trace | Refusal]) -> GoodLine | None:
        """The line that asks its next question, of the expert that gave the last answer.

        None if it has no more questions, or got no answer.
        """
        if not self.later or not isinstance(results[-1], Trace):
            return None
        answer, query = results[-1].answer, self.queries[0]
        turns = (*query.messages, Message("assistant", answer.text), Message("user", self.later[0]))
        turn_id = f"{self.id}{_TURN}{len(self.later)}"
        policy = replace(self.policy, expert=answer.expert)
        return replace(self, queries=(replace(query, id=turn_id, messages=turns),), policy=policy, later=self.later[1:])


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be asked, and why. `id` is its own if it could be read and no earlier line has it.

    `param` is the field at fault and `status` the HTTP status, for a request whose line is complete; otherwise `status`
    is None. `door` is as in `GoodLine`; for unreadable lines, that of the first readable one.
    """

    number: int
    id: str | None
    code: str
    message: str
    param: str | None = None
    status: int | None = None
    origin: Row = field(default=Row(), compare=False, repr=False)
    door: str = field(default=ENDPOINT, compare=False)


@dataclass(slots=True)  # not frozen: a million of them are made in the time that a user waits
class KnownLine:
    """A line that an earlier run answered: it is not parsed again. `id_hash` is its id's, 0 where it has none.

    `place` is the row of that run's files that holds its answer; None if the answer is in its place already.
    """

    number: int
    digest: bytes
    id_hash: int
    place: tuple[int, int] | None = None


class KnownLines(Protocol):
    """Tells by number and digest whether a line was answered before.

    `standing` gives the digests of the first lines, which are skipped if unchanged; `hashes` are those of their ids.
    """

    hashes: array[int]

    def __call__(self, number: int, digest: bytes) -> KnownLine | None:
        """The line if it was answered before, or None."""
        ...

    def standing(self) -> Iterator[bytes]:
        """The digests, one at a time."""
        ...


_TABLES = 64


class SeenIds:
    """Which line used an id first: tables of hashes, 12 bytes an id and half as much again.

    Two of a million ids have the same 64-bit hash with a probability of 3e-8. There are many tables, by a hash's last
    bits, because a table that grows takes several times its size for a moment.
    """

    def __init__(self) -> None:
        self._tables = [_Table() for _ in range(_TABLES)]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return sum(table.size for table in self._tables)

    def first_use(self, ident: str, number: int) -> int:
        """The number of the earlier line that used the id; if none did, this line's, which is then recorded."""
        return self.note(id_hash(ident), number)

    def note(self, hashed: int, number: int) -> int:
        """The same, given the hash of an id."""
        return self._tables[hashed % _TABLES].note(hashed, number)

    def fill(self, hashes: Sequence[int], numbers: Sequence[int]) -> None:
        """Add many ids at once, none of which was used before; 0 stands for a line without one."""
        ids, lines = np.asarray(hashes, dtype=np.uint64), np.asarray(numbers, dtype=np.uint32)
        for each, table in enumerate(self._tables):
            here = (ids > 0) & (ids % np.uint64(_TABLES) == each)
            table.fill(ids[here], lines[here])


class _Table:
    """Hashes that are not 0, each in the first free place from where it belongs, and a number for each."""

    def __init__(self) -> None:
        self._count, self._hashes, self._numbers = 0, array("Q", bytes(8 * 16)), array("I", bytes(4 * 16))

    @property
    def size(self) -> int:
        return 12 * len(self._hashes)

    def note(self, hashed: int, number: int) -> int:
        """The number that the hash has; if it has none, this one from now on."""
        if 4 * self._count >= 3 * len(self._hashes):
            self._grow()
        place = self._place(hashed)
        if not self._hashes[place]:
            self._hashes[place], self._numbers[place] = hashed, number
            self._count += 1
        return self._numbers[place]

    def fill(self, hashes: NDArray[np.uint64], numbers: NDArray[np.uint32]) -> None:
        """Add hashes, none of which is there yet."""
        self._rebuild(3 * (self._count + len(hashes)) // 2, hashes, numbers)

    def _place(self, hashed: int) -> int:
        """Where the hash stands, or the free place where it belongs."""
        hashes, size = self._hashes, len(self._hashes)
        place = (hashed // _TABLES) % size
        while hashes[place] not in (0, hashed):
            place = (place + 1) % size
        return place

    def _grow(self) -> None:
        none = np.empty(0, dtype=np.uint64)
        self._rebuild(len(self._hashes) * 3 // 2, none, none.astype(np.uint32))

    def _rebuild(self, size: int, hashes: NDArray[np.uint64], numbers: NDArray[np.uint32]) -> None:
        """A table of at least `size` places for what there is, and these. All find their places at once."""
        size = max(size, len(self._hashes))
        old_hashes, old_numbers = np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._numbers, np.uint32)
        hashes, numbers = (
            np.concatenate([old_hashes[old_hashes > 0], hashes]),
            np.concatenate([old_numbers[old_hashes > 0], numbers]),
        )
        del old_hashes, old_numbers
        self._hashes, self._numbers = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        wanted = (hashes // np.uint64(_TABLES) % np.uint64(size)).astype(np.int64)
        order = np.argsort(wanted, kind="stable")
        steps = np.arange(len(order))
        places = np.maximum.accumulate(wanted[order] - steps) + steps  # behind the one before, where that is in the way
        inside = places < size
        np.frombuffer(self._hashes, np.uint64)[places[inside]] = hashes[order[inside]]
        np.frombuffer(self._numbers, np.uint32)[places[inside]] = numbers[order[inside]]
        for each in order[~inside]:  # what the end has no room for begins anew
            place = self._place(int(hashes[each]))
            self._hashes[place], self._numbers[place] = int(hashes[each]), int(numbers[each])
        self._count = len(order)


def id_hash(ident: str) -> int:
    """A 64-bit hash of an id, never 0."""
    return xxh3_64_intdigest(ident.encode("utf-8", "surrogatepass")) or 1


class LineReader:
    """Reads rows as questions: OpenAI's and Anthropic's batch requests, and rows of every known shape.

    `model`, `k` and the other fields of a request mean what they mean online, also beside `prompt` and `messages`; a
    line without `k` gets the one given here, or the pool's. `reading` says how rows that are no requests are read.
    """

    def __init__(self, pool: Pool, k: int | None = None, reading: Reading = Reading()) -> None:  # noqa: B008 - frozen
        self._pool, self._k, self._reading = pool, k, reading
        self._models = catalogue(pool)
        self._usual = policy_for(pool, k=k)
        request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "?"}]})
        self._sampling = request.sampling(pool.sampling)
        self._said = bool(reading.prompt or reading.prompt_column)

    def read(
        self, *sources: str | Path, limit: int | None = None, share: float = 1.0, known: KnownLines | None = None
    ) -> Lines:
        """Every row of the files in turn; blank lines are skipped.

        At most `limit` rows are read. With a `share` below 1 rows are drawn at random, the same ones in every run,
        wherever they stand. Rows that are `known` come as `KnownLine`; if a job asks all rows, JSON lines unchanged in
        their places do not come at all. Memory grows with the files by only 18 bytes an id. The first line with an id
        has it: any later one is an error without an id. Raises `InputError`, at once, for files that cannot be read, if
        none of the first rows has a known shape (or is known), and, without `known`, if one can be read in two ways.
        """
        return Lines(self, sources, limit, share, known)

    def line(self, number: int, row: Row, unread: str = ENDPOINT) -> GoodLine | BadLine:
        """One row as a line. `unread` is the API path to give a row that cannot be read."""
        if row.code:
            return BadLine(number, None, row.code, row.fault, origin=row, door=unread)
        value, ident = row.row, None
        addressed = "custom_id" in value or isinstance(value.get("body"), dict)
        requested = addressed and not self._said and _SHAPED.isdisjoint(value)
        try:
            if requested:
                ident, door, body = _addressed(value, row.number)
                _check_id(ident, "custom_id")
                return self._good(number, ident, row, door, *_READ[door](body))
            ident = self._reading.ident(value)
            _check_id(ident or "", "id")
            return self._asked(number, ident, row, self._reading.asked(value))
        except BadLineError as error:
            return BadLine(number, error.custom_id, error.code, str(error), origin=row, door=_door(value))
        except RequestError as error:
            door, message = (_door(value), str(error)) if requested else ("", f"row {row.number}: {error}")
            return BadLine(number, ident, error.code, message, error.param, error.status, row, door)

    def _asked(self, number: int, named: str | None, row: Row, asked: Asked) -> GoodLine:
        """A row that is no request. What stands beside its prompt or messages may be options of a request."""
        value: dict[str, Any] = row.row
        ident = named or str(number)
        extras = {} if self._said or asked.shape not in ("prompt", "messages") else value
        tools = asked.shape == "messages" and any("tool_calls" in turn for turn in value["messages"])
        if not tools and _OPTIONS.isdisjoint(extras):
            query = Query(ident, asked.messages, self._sampling)
            ignored = tuple(name for name, content in extras.items() if content and name not in ("id", asked.shape))
            ignored = ignored if asked.shape == "prompt" else ()
            shape, later = asked.shape, asked.later
            return GoodLine(number, ident, AUTO, (query,), self._usual, ignored, row, "", shape, later, bool(named))
        turns: list[Any] = [_message(turn) for turn in asked.messages]
        if tools:
            messages = value["messages"]
            added = int(turns[0]["role"] == "system" != messages[0].get("role"))
            turns[added:] = messages[: len(turns) - added]
        options = {
            name: content for name, content in extras.items() if name not in ("id", "prompt") and content is not None
        }
        request = line_request({"model": AUTO, **options, "messages": turns})
        line = self._good(number, ident, row, "", [request], request.ignored, asked)
        return line if named else replace(line, named=False)

    def _good(
        self,
        number: int,
        ident: str,
        row: Row,
        door: str,
        requests: Sequence[ChatRequest],
        ignored: tuple[str, ...],
        asked: Asked | None = None,
    ) -> GoodLine:
        request = requests[0]
        for each in requests:
            if each.stream:
                raise RequestError("stream: a batch cannot stream", code="invalid_value", param="stream")
            each.check(MOST_CHOICES)
        options = request.symmoe
        policy = policy_for(
            self._pool,
            known_model(self._models, request.model),
            options.k or self._k,
            options.budget,
            options.aggregate,
            options.quality,
        )
        queries = [each.query(each.sampling(self._pool.sampling)) for each in requests]
        if door == COMPLETIONS:
            queries = [replace(each, sampling=replace(each.sampling, raw=True)) for each in queries]
        for query in queries:
            policy = fitting(policy, self._pool, query)
        choices = tuple(_choices([settled(query) for query in queries], ident, request.n or 1))
        shape, later = (asked.shape, asked.later) if asked else (door, ())
        return GoodLine(number, ident, request.model, choices, policy, ignored, row, door, shape, later)


class Lines:
    """The lines of files. The first thousand, or 8 MiB, are read at once, to recognise the shape.

    `shapes` counts the shapes of the lines so far. Raises as `LineReader.read` says.
    """

    def __init__(
        self,
        reader: LineReader,
        sources: Sequence[str | Path],
        limit: int | None,
        share: float,
        known: KnownLines | None,
    ) -> None:
        def known_row(number: int, digest: bytes) -> KnownLine | str | None:
            if not drawn(digest, share):
                return _LEFT_OUT
            return None if known is None else known(number, digest)

        whole = known is not None and limit is None and share >= 1
        rows = Rows(sources, known_row, known.standing() if whole and known is not None else ())
        self._known, self._filled = known, 0
        selected = rows if share >= 1 else (row for row in rows if row.known is not _LEFT_OUT)
        self.shapes: Counter[str] = Counter()
        self.meter, self.files = rows.meter, rows.files
        self._reader, self._seen = reader, SeenIds()
        self._all, self._rows = rows, islice(selected, limit)
        self._limit, self._sampled, self._read, self._bytes, self._ended = limit, share, 0, 0, False
        self._unread = ENDPOINT
        self._ahead = deque(self._first())
        self.example = next((line for line in self._ahead if isinstance(line, GoodLine)), None)
        self._check()

    @property
    def shapes_text(self) -> str:
        """The shapes of the first rows, most frequent first."""
        shapes = Counter(line.shape or line.door for line in self._ahead if isinstance(line, GoodLine))
        return ", ".join(shape for shape, _ in shapes.most_common())

    def __iter__(self) -> Iterator[GoodLine | BadLine | KnownLine]:
        return self

    def __next__(self) -> GoodLine | BadLine | KnownLine:
        try:
            line = self._ahead.popleft() if self._ahead else self._line(next(self._rows))
        except StopIteration:
            self._ended = True
            self.close()
            raise
        if isinstance(line, GoodLine):
            self.shapes[line.shape] += 1
        return line

    @property
    def count(self) -> int:
        """How many lines were read, unchanged ones among them."""
        return self._read + self.passed

    @property
    def share(self) -> float | None:
        """About which part of the lines that is, by the bytes that were read; None where their sum is unknown."""
        shares = [1.0] if self._ended else []
        if self._limit:
            shares.append(min(self.count / self._limit, 1.0))
        if self.meter.total:
            ahead = 0 if self.passed else 2 * CHUNK  # so far is read before it is needed
            parsed = self._bytes / self._sampled if self._sampled else 0.0
            done = min(self.meter.done, max(parsed, self.meter.done - ahead))
            shares.append(min(done / self.meter.total, 1.0))
        return max(shares, default=None)

    @property
    def passed(self) -> int:
        """How many unchanged lines were skipped."""
        return len(self._all.passed)

    @property
    def standing(self) -> Sequence[int]:
        """The numbers of the lines that were skipped."""
        return self._all.passed

    @property
    def differs(self) -> bool:
        """Whether a line differs from the one written in its place."""
        return self._all.differs

    def close(self) -> None:
        """Close the file."""
        self._all.close()

    def _first(self) -> Iterator[GoodLine | BadLine | KnownLine]:
        """The first rows; of standard input, which may be slow to come, the first alone."""
        most, size = (1 if self.files[:1] and self.files[0].name == "-" else _PEEKED), 0
        while most and size < _PEEKED_BYTES and (row := next(self._rows, None)) is not None:
            most, size = most - 1, size + row.size
            yield self._line(row)

    def _line(self, row: Row) -> GoodLine | BadLine | KnownLine:
        number = row.place or row.number
        self._read, self._bytes = self._read + 1, self._bytes + row.size + 1
        if self.passed > self._filled and self._known is not None:
            fresh = slice(self._filled, self.passed)
            self._seen.fill(self._known.hashes[fresh], self._all.passed[fresh])
            self._filled = self.passed
        before: KnownLine | None = row.known
        if before is not None:
            if not before.id_hash or self._seen.note(before.id_hash, number) == number:
                return before
            message = f"line {number}: its id was already used on another line"
            return BadLine(number, None, "duplicate_custom_id", message, origin=row, door=self._unread)
        line = self._reader.line(number, row, self._unread)
        if isinstance(line, GoodLine) and self._unread == ENDPOINT:
            self._unread = line.door
        return _once(line, self._seen)

    def _check(self) -> None:
        """Raise `InputError` where the first rows do not say how they are to be read.

        Of a job that goes on, one that can be read, or was, is enough.
        """
        readable = self.example is not None or self.passed or any(isinstance(line, KnownLine) for line in self._ahead)
        unread = [line for line in self._ahead if isinstance(line, BadLine) and line.code in _SHAPELESS]
        wrong = next((line for line in unread if line.code == "ambiguous_shape"), unread[0] if unread else None)
        if wrong is not None and not (readable and (self._known is not None or wrong.code != "ambiguous_shape")):
            self.close()
            raise InputError(f"{wrong.origin.source}: {wrong.message}", hint=what_to_write(wrong.code))


_SHAPELESS = frozenset({"ambiguous_shape", "unknown_shape", "missing_column", "invalid_template"})


_LEFT_OUT = "left out"


def drawn(digest: bytes, share: float) -> bool:
    """Whether a row is in a share of the rows, which depends only on its content."""
    return share >= 1 or int.from_bytes(digest[:4]) / (1 << 32) < share


def _door(value: Mapping[str, Any]) -> str:
    """In whose form a request that cannot be asked is answered."""
    return MESSAGES if "params" in value and "url" not in value else ENDPOINT


def _addressed(value: Mapping[str, Any], number: int) -> tuple[str, str, dict[str, Any]]:
    """Of a line of a batch its id, the path it is sent to, and the request. Raises `BadLineError`."""
    if _door(value) == MESSAGES:  # as Anthropic has it
        value = {"custom_id": value.get("custom_id"), "method": "POST", "url": MESSAGES, "body": value["params"]}
    line = read_line(dict(value), number, urls=_READ.keys())
    return str(line["custom_id"]), str(line["url"]), line["body"]


def _read_with(
    model: type[CompletionRequest] | type[ResponseRequest] | type[MessageRequest], body: dict[str, Any]
) -> tuple[Sequence[ChatRequest], tuple[str, ...]]:
    try:
        request = model.model_validate(body)
        if isinstance(request, CompletionRequest):
            request.check(MOST_CHOICES)
            return request.chats(), request.ignored
        if isinstance(request, MessageRequest):
            return [request.chat()], request.ignored
        if request.previous_response_id:
            message = "previous_response_id: a batch knows no response before; send the whole conversation"
            raise RequestError(message, code="unsupported_parameter", param="previous_response_id")
        return [request.chat(request.turns())], request.ignored
    except ValidationError as error:
        raise request_error(error) from error


def _chat(body: dict[str, Any]) -> tuple[Sequence[ChatRequest], tuple[str, ...]]:
    request = line_request(body)
    return [request], request.ignored


_READ: dict[str, Callable[[dict[str, Any]], tuple[Sequence[ChatRequest], tuple[str, ...]]]] = {
    ENDPOINT: _chat,
    COMPLETIONS: partial(_read_with, CompletionRequest),
    RESPONSES: partial(_read_with, ResponseRequest),
    MESSAGES: partial(_read_with, MessageRequest),
}


def _message(turn: Message) -> dict[str, str]:
    return {"role": turn.role, "content": turn.content}


def _check_id(ident: str, name: str) -> None:
    """Raise `RequestError` for an id that might be that of another line's choice or turn."""
    if _CHOICE in ident or _TURN in ident:
        message = f"{name}: the control characters U+001E and U+001F stand in no id"
        raise RequestError(message, code=f"invalid_{name}", param=name)


def _choices(queries: Sequence[Query], ident: str, n: int) -> Iterator[Query]:
    """A query for each choice, under an id and, where one was given, a seed of its own."""
    for number, query in enumerate(each for each in queries for _ in range(n)):
        choice_id = ident if number == 0 else f"{ident}{_CHOICE}{number}"
        seed = query.sampling.seed
        sampling = query.sampling if seed is None else replace(query.sampling, seed=seed + number % n)
        yield replace(query, id=choice_id, sampling=sampling)


def _once(line: GoodLine | BadLine, seen: SeenIds) -> GoodLine | BadLine:
    earlier = line.number if line.id is None else seen.first_use(line.id, line.number)
    if earlier == line.number:
        return line
    if isinstance(line, BadLine):
        return replace(line, id=None)
    message = f"line {line.number}: the id {line.id!r} was already used on line {earlier}"
    return BadLine(line.number, None, "duplicate_custom_id", message, origin=line.origin, door=line.door)
