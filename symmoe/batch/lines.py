"""Reading a batch file: each line is a query or says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from symmoe.config import SamplingConfig
from symmoe.errors import JobError, RequestError
from symmoe.types import Message, Query, Sampling

MAX_LINE_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that can be asked. `number` counts from 1."""

    number: int
    query: Query


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot, and why. `id` is its own where it could be read and is not another line's."""

    number: int
    id: str | None
    code: str
    message: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Id = Annotated[str, Field(min_length=1, max_length=512)]
_Number = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
_Stop = Annotated[str, Field(min_length=1)]


class _Options(_Strict):
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: _Stop | list[_Stop] | None = None

    def sampling(self, defaults: SamplingConfig) -> Sampling:
        """These options, the pool's where one is left open."""
        stop = [self.stop] if isinstance(self.stop, str) else (self.stop or [])
        return Sampling(
            max_tokens=self.max_tokens or self.max_completion_tokens or defaults.max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stop),
        )


class _Plain(_Options):
    id: _Id | _Number
    prompt: StrictStr

    def query(self, defaults: SamplingConfig) -> Query:
        return Query(str(self.id), (Message("user", self.prompt),), self.sampling(defaults))


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Turn(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class _Body(_Options):
    messages: list[_Turn] = Field(min_length=1)
    model: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None


class _OpenAI(_Strict):
    custom_id: _Id
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: _Body

    def query(self, defaults: SamplingConfig) -> Query:
        turns = tuple(turn.message() for turn in self.body.messages)
        return Query(self.custom_id, turns, self.body.sampling(defaults))


def read_lines(path: Path, defaults: SamplingConfig) -> list[GoodLine | BadLine]:
    """Read every line of a batch file; blank lines are passed over. Only a file that cannot be opened raises.

    Lines are in OpenAI's batch form or `{"id", "prompt"}` with the same sampling options beside them. A line over
    `MAX_LINE_BYTES` is not kept in memory. Every id stands for one line: of good lines the first one has it, and a
    second use is an error without an id; a bad line keeps its id only if no other line has it.
    """
    lines = [_parse(number, raw, defaults) for number, raw in _raw_lines(path)]
    first_use: dict[str, int] = {}
    for good in (line for line in lines if isinstance(line, GoodLine)):
        first_use.setdefault(good.query.id, good.number)
    return [_once(line, first_use) for line in lines]


def _once(line: GoodLine | BadLine, first_use: dict[str, int]) -> GoodLine | BadLine:
    used = line.query.id if isinstance(line, GoodLine) else line.id
    earlier = line.number if used is None else first_use.setdefault(used, line.number)
    if earlier == line.number:
        return line
    if isinstance(line, BadLine):
        return replace(line, id=None)
    message = f"line {line.number}: id {used!r} was already used on line {earlier}"
    return BadLine(line.number, None, "duplicate_id", message)


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
            elif (text := raw.removeprefix(_BOM) if number == 1 else raw).strip():
                yield number, text


def _parse(number: int, raw: bytes | None, defaults: SamplingConfig) -> GoodLine | BadLine:
    if raw is None:
        limit = f"{MAX_LINE_BYTES >> 20} MiB"
        return BadLine(number, None, "line_too_long", f"line {number}: longer than {limit}")
    document: Any = None
    try:
        document = _document(raw)
        query = _query(document, defaults)
    except RequestError as error:
        return BadLine(number, _readable_id(document), error.code, f"line {number}: {error}")
    return GoodLine(number, query)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 (byte {error.start})", code="invalid_encoding") from error
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON ({error.msg})", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError("not JSON (nested too deeply)", code="invalid_json") from error
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise RequestError("not JSON (a number of too many digits)", code="invalid_json") from error
    if not isinstance(document, dict):
        raise RequestError(f"not a JSON object but {type(document).__name__}", code="invalid_json")
    return document


def _query(document: dict[str, Any], defaults: SamplingConfig) -> Query:
    form: type[_OpenAI | _Plain] = _OpenAI if "body" in document or "custom_id" in document else _Plain
    try:
        query = form.model_validate(document).query(defaults)
    except ValidationError as error:
        raise _as_request_error(error) from error
    if not query.text.strip():
        raise RequestError("the prompt is empty", code="empty_prompt")
    if not any(message.role == "user" for message in query.messages):
        raise RequestError("no message has the role user", code="missing_prompt")
    if _lone_surrogate(query):
        raise RequestError("text holds half of a surrogate pair, which is no character", code="invalid_encoding")
    return query


def _lone_surrogate(query: Query) -> bool:
    try:
        (query.id + "".join(message.content for message in query.messages)).encode()
    except UnicodeEncodeError:
        return True
    return False


def _as_request_error(error: ValidationError) -> RequestError:
    problems = error.errors()
    missing = {str(p["loc"][-1]) for p in problems if p["type"] == "missing"}
    if missing & {"prompt", "messages", "body"}:
        return RequestError(f"no prompt: {', '.join(sorted(missing))} is missing", code="missing_prompt")
    said = "; ".join(f"{_place(p['loc'])}: {_reason(p)}" for p in problems[:3])
    return RequestError(said, code="invalid_field")


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in location) or "line"


def _reason(problem: Any) -> str:
    return "unknown field" if problem["type"] == "extra_forbidden" else str(problem["msg"])


def _readable_id(document: Any) -> str | None:
    if not isinstance(document, dict):
        return None
    found = document.get("custom_id", document.get("id"))
    if type(found) is int and -(2**63) <= found < 2**63:
        return str(found)
    return found if isinstance(found, str) and 0 < len(found) <= 512 and found.isprintable() else None
