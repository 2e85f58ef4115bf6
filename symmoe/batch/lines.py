"""Reading a batch file: each line is a request or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from symmoe.config import Pool
from symmoe.errors import JobError, RequestError
from symmoe.images import settled
from symmoe.policy import AUTO, Policy, catalogue, known_model, policy_for
from symmoe.types import Query
from symmoe.wire.chat import ChatRequest, line_request, unable
from symmoe.wire.lines import MOST_ID, BadLineError, read_line, read_object

MAX_LINE_BYTES = 1 << 20
MOST_CHOICES = 16
_CHOICE = "\x1f"


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that can be asked: a query for each of its choices, and how they are answered. `number` counts from 1.

    `ignored` are its fields that have no effect.
    """

    number: int
    id: str
    model: str
    queries: tuple[Query, ...]
    policy: Policy
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot, and why. `id` is its own where it could be read and is not another line's.

    `param` is the field at fault and `status` what HTTP calls it, for a request whose line is whole; else `status` is
    None.
    """

    number: int
    id: str | None
    code: str
    message: str
    param: str | None = None
    status: int | None = None


class LineReader:
    """Reads lines in OpenAI's batch form, or `{"id", "prompt"}` with the fields of a request beside them.

    `model`, `k` and the other fields of a request mean what they mean online; where a line leaves `k` open it is the
    one given here, else the pool's.
    """

    def __init__(self, pool: Pool, k: int | None = None) -> None:
        self._pool, self._k = pool, k
        self._models = catalogue(pool)

    def read(self, path: Path) -> list[GoodLine | BadLine]:
        """Every line of a file; blank ones are passed over. Only a file that cannot be opened raises.

        A line over `MAX_LINE_BYTES` is not kept in memory. Every id stands for one line: of good lines the first one
        has it, and a second use is an error without an id; a bad line keeps its id only if no other line has it.
        """
        lines = [self._line(number, raw) for number, raw in _raw_lines(path)]
        first_use: dict[str, int] = {}
        for good in (line for line in lines if isinstance(line, GoodLine)):
            first_use.setdefault(good.id, good.number)
        return [_once(line, first_use) for line in lines]

    def _line(self, number: int, raw: bytes | None) -> GoodLine | BadLine:
        if raw is None:
            message = f"line {number} is longer than {MAX_LINE_BYTES} bytes"
            return BadLine(number, None, "line_too_long", message)
        ident = None
        try:
            ident, body = _parts(raw, number)
            return self._good(number, ident, line_request(body))
        except BadLineError as error:
            return BadLine(number, error.custom_id, error.code, str(error))
        except RequestError as error:
            return BadLine(number, ident, error.code, str(error), error.param, error.status)

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
        policy = policy.able(unable(self._pool, policy.expert, query))
        query = settled(query)
        choices = tuple(_choices(query, ident, request.n or 1))
        return GoodLine(number, ident, request.model, choices, policy, request.ignored)


def _parts(raw: bytes, number: int) -> tuple[str, dict[str, Any]]:
    """The id and the request of a line in either form."""
    document = read_object(raw, number)
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


def _once(line: GoodLine | BadLine, first_use: dict[str, int]) -> GoodLine | BadLine:
    earlier = line.number if line.id is None else first_use.setdefault(line.id, line.number)
    if earlier == line.number:
        return line
    if isinstance(line, BadLine):
        return replace(line, id=None)
    message = f"line {line.number}: the id {line.id!r} was already used on line {earlier}"
    return BadLine(line.number, None, "duplicate_custom_id", message)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their ends; None for one that is too long."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from error
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
