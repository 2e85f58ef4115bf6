"""Traces in the store: how each request came to its answer, kept for a time and not without bound, written in the
background.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from symmoe.config import COST_UNITS
from symmoe.errors import ConfigError, StoreError
from symmoe.limits import TRACE_BYTES, TRACE_TEXT_CHARACTERS, TRACES_BYTES, TRACES_WAITING
from symmoe.types import Candidate, Trace

from ..access.breaker import Stored
from ..order import Report, Share
from ..repeating import repeating
from ..settings import Settings
from ..storage import command
from .note import Note, messages_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

POLICIES = ("off", "metadata", "text")
_INDEX, _PREFIX, _SIZE = "symmoe:traces:all", "symmoe:trace:", "symmoe:traces:size"
_OF, _COUNTS, _WEIGHTS = "symmoe:traces:of:", "symmoe:traces:counts", "symmoe:traces:weights"
_UNPLAIN = re.compile(r"[^A-Za-z0-9-]")
_PAUSE = 0.5
_TOGETHER = 250
_UNKEPT = "/v1/route"

_KEEP = """
local now, life, most, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local index, size, counts, weights = KEYS[1], KEYS[3], KEYS[5], KEYS[6]
local function hold(row, sign)
  local ident, weight, holder = string.match(row, '^{"id":"(%w+)","size":(%d+),"of":"([%w/-]*)",')
  redis.call('INCRBY', size, sign * weight)
  local left = tonumber(redis.call('ZINCRBY', counts, sign, holder))
  redis.call('ZINCRBY', weights, sign * weight, holder)
  if left <= 0 then
    redis.call('ZREM', counts, holder)
    redis.call('ZREM', weights, holder)
  end
  return KEYS[2] .. ident, KEYS[4] .. holder
end
local function forget(rows)
  for _, row in ipairs(rows) do
    local whole, own = hold(row, -1)
    redis.call('UNLINK', whole)
    redis.call('ZREM', own, row)
    redis.call('ZREM', index, row)
  end
end
local function forget_oldest_of_most(held)
  local holder = redis.call('ZREVRANGE', held, 0, 0)[1]
  local rows = holder and redis.call('ZRANGE', KEYS[4] .. holder, 0, 0) or {}
  if #rows == 0 then rows = redis.call('ZRANGE', index, 0, 0) end
  forget(rows)
end
for i = 5, #ARGV, 3 do
  local whole, own = hold(ARGV[i + 1], 1)
  redis.call('SET', whole, ARGV[i + 2], 'PX', math.floor(life * 1000))
  for _, key in ipairs({index, own}) do
    redis.call('ZADD', key, ARGV[i], ARGV[i + 1])
    redis.call('PEXPIRE', key, math.floor(life * 1000))
  end
end
forget(redis.call('ZRANGEBYSCORE', index, '-inf', now - life))
while redis.call('ZCARD', index) > most do forget_oldest_of_most(counts) end
while tonumber(redis.call('GET', size)) > bytes and redis.call('ZCARD', index) > 0 do forget_oldest_of_most(weights) end
for _, key in ipairs({size, counts, weights}) do redis.call('PEXPIRE', key, math.floor(life * 1000)) end
"""
"""Where there is no more room, who holds most gives its oldest: no key, and no batch, pushes out what others hold."""

_SEARCH = """
local since, till, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, at = {}, 0
while true do
  local rows = redis.call('ZREVRANGEBYSCORE', KEYS[1], till, since, 'LIMIT', at, 1000)
  for _, row in ipairs(rows) do
    local fits = true
    for i = 4, #ARGV do
      if not string.find(row, ARGV[i], 1, true) then fits = false; break end
    end
    if fits then
      found[#found + 1] = row
      if #found >= most then return found end
    end
  end
  if #rows < 1000 then return found end
  at = at + 1000
end
"""
"""Rows hold what is searched for as JSON strings: quoted and escaped, one is never part of another."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What traces are searched by; None means any. `ident` is a trace's id or its request's.

    Times are seconds since 1970; `till` is exclusive.
    """

    key: str | None = None
    ident: str | None = None
    expert: str | None = None
    skill: str | None = None
    outcome: str | None = None
    model: str | None = None
    batch: str | None = None
    since: float | None = None
    till: float | None = None

    @property
    def marks(self) -> list[str]:
        """The pieces of JSON that every row of the index which fits contains."""
        named = {"k": self.key, "i": self.ident, "e": self.expert, "s": self.skill, "o": self.outcome}
        named |= {"m": self.model, "b": self.batch}
        return [_mark(kind, value) for kind, value in named.items() if value is not None]


class KeptTraces:
    """Traces of requests that are over. Without `texts` they hold nothing of what was asked or answered.

    Each is kept for so many `seconds`; beyond `most` the oldest give way, of the key that has most of them, and apart
    from its others of the lines of its batches. What cannot be written is counted in `lost`.
    """

    def __init__(self, stored: Stored, texts: bool, most: int, seconds: float) -> None:
        self.texts = texts
        self._stored, self._most, self._seconds = stored, most, seconds
        self._waiting: deque[Note] = deque()
        self._writing = asyncio.Lock()
        self.lost = 0

    def add(self, note: Note) -> None:
        """Remember a request that is over, for `write`. Where `TRACES_WAITING` wait already, it is lost."""
        if note.model == "" or note.endpoint == _UNKEPT:
            return
        if len(self._waiting) >= TRACES_WAITING:
            self.lost += 1
            return
        self._waiting.append(note)

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Write what was added twice a second as long as the block lasts, and once more at its end."""
        return repeating(self.write, _PAUSE)

    async def write(self) -> None:
        """Write what was added so far. What the store does not take is lost."""
        async with self._writing:
            while self._waiting:
                notes = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
                rows = await asyncio.to_thread(_rows, notes, self.texts)
                self.lost += len(notes) - len(rows)
                try:
                    await self._put(rows, max(note.at for note in notes) / 1e9)
                except StoreError:
                    self.lost += len(rows)

    async def search(self, sought: Sought, most: int) -> list[dict[str, Any]]:
        """At most so many traces that fit, the newest first, each in short. Raises `StoreError`."""
        await self.write()
        since = "-inf" if sought.since is None else sought.since
        till = "+inf" if sought.till is None else f"({sought.till}"

        async def work(client: Redis) -> list[bytes]:
            rows: list[bytes] = await client.register_script(_SEARCH)(
                keys=[_INDEX], args=[since, till, most, *sought.marks]
            )
            return rows

        return [_short(from_json(row)) for row in await self._stored.do(work)]

    async def ran(self, sought: Sought, most: int) -> list[dict[str, Any]]:
        """What experts did, by the newest traces that fit, at most so many: spans `at` seconds since 1970.

        Raises `StoreError`.
        """
        traces = await self.search(sought, most)
        if not traces:
            return []
        rows: list[bytes | None] = await self._stored.do(command("MGET", *(_PREFIX + each["id"] for each in traces)))
        documents = [from_json(row) for row in rows if row is not None]
        return [
            {**span, "at": each["at"] + span["began"], "trace": each["id"], "batch": each["batch"]}
            for each in documents
            for span in each.get("symmoe", {}).get("spans", [])
            if span["expert"] is not None and span["name"] != "wait"
        ]

    async def find(self, ident: str, key: str | None = None) -> dict[str, Any] | None:
        """The newest trace of that id or of the request of that name; of that key, if one is given.

        Raises `StoreError`.
        """
        matches = await self.search(Sought(key=key, ident=ident), 1)
        if not matches:
            return None
        row: bytes | None = await self._stored.do(command("GET", _PREFIX + matches[0]["id"]))
        document: dict[str, Any] | None = None if row is None else from_json(row)
        return document

    async def _put(self, rows: Sequence[Iterable[str | bytes | float]], now: float) -> None:
        args = [value for row in rows for value in row]
        bounds = [now, self._seconds, self._most, TRACES_BYTES]
        keys = [_INDEX, _PREFIX, _SIZE, _OF, _COUNTS, _WEIGHTS]

        async def work(client: Redis) -> None:
            await client.register_script(_KEEP)(keys=keys, args=[*bounds, *args])

        await self._stored.do(work)


def kept_traces(settings: Settings, stored: Stored) -> KeptTraces | None:
    """What the settings say is kept. Raises `ConfigError` for what is no policy of keeping traces."""
    policy = settings.traces
    if policy not in POLICIES:
        raise ConfigError(f"traces: {policy!r} is no policy", hint=f"there are: {', '.join(POLICIES)}")
    if policy == "off":
        return None
    return KeptTraces(stored, policy == "text", settings.traces_most, settings.traces_seconds)


def outcome_of(note: Note) -> str:
    """How a request went, in one word: `answered`, `cached`, `left` by its client, or an error's code."""
    if note.code:
        return note.code
    report = note.report
    if report is None:
        return "left" if not note.status else "cached" if note.cache == "hit" else "answered"
    if report.traces:
        return "answered"
    return report.failures[-1].code if report.failures else "left"


def _rows(notes: Sequence[Note], texts: bool) -> list[tuple[float, bytes, bytes]]:
    """Of each note its time, its row in the index, and all of it; nothing of one that is no JSON."""
    rows = []
    for note in notes:
        ident = secrets.token_hex(12)
        row = _row(ident, note)
        with suppress(ValueError):  # such as half a character
            encoded = to_json(_document(row, note, texts))
            if len(encoded) > TRACE_BYTES:
                encoded = to_json(_document(row, note, False, explained=False))
            row["size"] = len(encoded)
            rows.append((note.at / 1e9, to_json(row), encoded))
    return rows


def _row(ident: str, note: Note) -> dict[str, Any]:
    report = note.report
    tags = [f"i:{ident}", f"i:{note.id}", f"k:{note.key}", f"m:{note.model}", f"o:{outcome_of(note)}"]
    if note.batch:
        tags.append(f"b:{note.batch}")
    way, tokens = "", [0, 0]
    if report is not None:
        routed = report.routed
        tags += [f"e:{name}" for name in report.asked]
        tags += [f"s:{match.skill}" for match in (routed.skills.matches if routed.skills else ())]
        way, tokens = routed.way, [report.prompt_tokens, report.completion_tokens]
    return {
        "id": ident,
        "size": 0,
        "of": _UNPLAIN.sub("-", note.key) + ("/batch" if note.batch else ""),
        "at": note.at / 1e9,
        "way": way,
        "ms": round(1000 * note.seconds, 1),
        "t": tokens,
        "tags": tags,
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the index as clients see it."""
    tags: dict[str, list[str]] = {}
    for tag in row["tags"]:
        tags.setdefault(tag[0], []).append(tag[2:])
    return {
        "object": "symmoe.trace",
        "id": row["id"],
        "request": tags["i"][1],
        "at": row["at"],
        "key": tags["k"][0],
        "model": tags["m"][0],
        "outcome": tags["o"][0],
        "batch": tags.get("b", [None])[0],
        "path": row["way"] or None,
        "experts": tags.get("e", []),
        "skills": tags.get("s", []),
        "milliseconds": row["ms"],
        "tokens": {"prompt": row["t"][0], "completion": row["t"][1]},
    }


def _mark(kind: str, value: str) -> str:
    return to_json(f"{kind}:{value}").decode()


def _document(row: dict[str, Any], note: Note, texts: bool, explained: bool = True) -> dict[str, Any]:
    head = {
        "at": note.at / 1e9,
        "endpoint": note.endpoint,
        "status": note.status,
        "seconds": round(note.seconds, 4),
        "cache": note.cache or None,
        "texts": texts,
        "messages": _cut(messages_of(note.query)) if texts and note.query is not None else None,
    }
    document = {**_short(row), **head}
    return document if note.report is None else {**document, "symmoe": way_of(note.report, texts, explained)}


def way_of(report: Report, texts: bool, explained: bool = True) -> dict[str, Any]:
    """The way of a question to its answer, with or without `texts`; shaped as the answer's own explanation is."""
    routed = report.routed
    return {
        "path": routed.way,
        "skills": routed.skills.matches if routed.skills else (),
        "facets": routed.skills.facets if routed.skills else (),
        "shares": routed.recruitment.shares,
        "accuracies": routed.recruitment.accuracies,
        "recruited": [assignment.expert for assignment in routed.recruitment.assignments],
        "asked": list(report.asked),
        "explanation": routed.explanation if explained else None,
        "traces": [_trace(trace, texts) for trace in report.traces],
        "spans": spans_of(report),
        "failures": report.failures,
        "rerouted": report.rerouted,
        "cost": report.cost / COST_UNITS,
        "seconds": {"route": routed.seconds, "first_token": report.first_token, "total": report.total},
    }


def spans_of(report: Report) -> list[dict[str, Any]]:
    """What took from when to when, in seconds since the request came in: stages, and each expert's."""
    spans: list[dict[str, Any]] = []
    if report.routed.skills is not None:
        spans.append(_span("route", 0.0, report.routed.seconds))
    for share in report.shares:
        spans += _expert_spans(share)
    spans += [_span(stage.name, stage.began, stage.began + stage.seconds) for stage in report.stages]
    return spans


def _expert_spans(share: Share) -> list[dict[str, Any]]:
    begun, expert = share.begun, share.expert
    begins = min(share.asked + begun.waited, share.ended)
    loads = max(share.asked, begins - begun.load) if begun.first else begins
    spans = [
        _span("wait", share.asked, loads, expert),
        _span("load", loads, begins, expert, begun.lane),
        _span("generate", begins, share.ended, expert),
    ]
    return [span for span in spans if span["seconds"] > 0 or span["name"] == "generate"]


def _span(name: str, began: float, ended: float, expert: str | None = None, lane: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "expert": expert,
        "began": round(began, 5),
        "seconds": round(max(0.0, ended - began), 5),
        "lane": lane,
    }


def _trace(trace: Trace, texts: bool) -> dict[str, Any]:
    answer = trace.answer
    votes = [
        {"share": vote.share, "experts": vote.experts, "members": vote.members}
        | ({"answer": _shortened(vote.answer)} if texts else {})
        for vote in answer.votes
    ]
    facts = {name: getattr(answer, name) for name in ("expert", "origin", "why", "finish_reason", "novel")}
    return {
        "answer": {**facts, "votes": votes, **({"text": _shortened(answer.text)} if texts else {})},
        "candidates": [_candidate(candidate, texts) for candidate in trace.candidates],
        "verdicts": trace.verdicts,
        "synthesis": None if trace.synthesis is None else _candidate(trace.synthesis, texts),
        "consensus": trace.consensus,
        "posterior": trace.posterior,
        "way": trace.way,
    }


def _candidate(candidate: Candidate, texts: bool) -> dict[str, Any]:
    names = ("expert", "slot", "lane", "finish_reason", "prompt_tokens", "completion_tokens", "shared")
    facts = {name: getattr(candidate, name) for name in names}
    return {**facts, **({"text": _shortened(candidate.text)} if texts else {})}


def _cut(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**message, **({"content": _shortened(message["content"])} if "content" in message else {})}
        for message in messages
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= TRACE_TEXT_CHARACTERS else f"{text[:TRACE_TEXT_CHARACTERS]}…"
