"""What each key used, by expert and day, counted in the store: requests, generations, tokens, and what they cost.

Counts are gathered in the process and written once a second, so that no answer waits for the store. Each key has a hash
for a month of UTC, with a field for each day, expert and count. Costs are counted as `PriceConfig.cost` does.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from symmoe.config import COST_UNITS
from symmoe.errors import StoreError
from symmoe.limits import NAMES_AT_ONCE

from ..order import Report
from ..repeating import repeating
from ..storage import command
from .breaker import Stored
from .keys import NOBODY, Caller, KeyRecord, everyone

if TYPE_CHECKING:
    from redis.asyncio import Redis

By = Literal["day", "key", "expert"]
BY: tuple[By, ...] = get_args(By)
EMBEDDING = "symmoe/embedder"
_COUNTS = ("requests", "generations", "prompt_tokens", "completion_tokens", "cost")
_EVERY = 1.0
_MARK_SECONDS = 86_400
_ALL = ""
"""Stands for all experts together: a request that several of them answer is one."""
_SPENT = f"|{_ALL}|cost"
"""The field of a month's cost."""
_FIELD, _COUNT = re.compile(rb"(\d\d)\|([^|]*)\|([a-z_]+)"), re.compile(rb"\d{1,20}")

_ADD = """
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[2])
if ARGV[3] ~= '0' then redis.call('INCRBY', KEYS[3], ARGV[3]) end
return 1
"""
"""A part is marked as it is written, so that one whose answer was lost may be sent again and counts once."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a request took of one expert."""

    expert: str
    prompt_tokens: int
    completion_tokens: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """Counts of one key and month on their way to the store, under a name of their own."""

    key: str
    month: str
    counts: Mapping[str, int]
    name: str


def used_of(report: Report) -> list[Used]:
    """The tokens and cost of each generation of a request; of one that was cut short, as far as they are known."""
    shares = [
        Used(each.expert, each.generation.prompt_tokens, each.generation.completion_tokens, each.cost)
        for each in report.shares
    ]
    cut = [Used(each.expert, each.prompt_tokens, each.completion_tokens, each.cost) for each in report.unfinished]
    return shares + [each for each in cut if each.prompt_tokens or each.completion_tokens]


class Usage:
    """Counts what keys use, and knows who is over the budget. `stored` is None where nothing is counted.

    What is counted is kept for so many `seconds` after its month. Where the store does not answer, counts wait here,
    nobody is refused, and `unchecked` is called.
    """

    def __init__(
        self,
        stored: Stored | None,
        seconds: float,
        unchecked: Callable[[], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._stored, self._seconds, self._unchecked, self._clock = stored, seconds, unchecked, clock
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        self._parts: list[_Part] = []
        self._writing = asyncio.Lock()

    @property
    def counts(self) -> bool:
        """Whether anything is counted."""
        return self._stored is not None

    def note(self, key: str, used: Iterable[Used], requests: int = 1) -> None:
        """Count a request of a key, or none for more of one that was counted, and what it took."""
        if self._stored is None:
            return
        day = self._clock().strftime("%Y-%m-%d")
        counts = self._counts.setdefault((key, day[:7]), Counter())
        counts[f"{day[8:]}|{_ALL}|requests"] += requests
        for usage in used:
            tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            for name, count in {"generations": 1, **tokens, "cost": usage.cost}.items():
                counts[f"{day[8:]}|{usage.expert}|{name}"] += count
            if usage.cost:
                counts[f"{day[8:]}|{_ALL}|cost"] += usage.cost
                counts[_SPENT] += usage.cost

    async def spent(self, caller: Caller) -> float | None:
        """What a caller spent of its budget, in the pool's currency; None where it has none, or that is not known."""
        if self._stored is None or caller.budget is None:
            return None
        day = self._clock().strftime("%Y-%m-%d")
        hashed = {"day": f"{day[8:]}|{_ALL}|cost", "month": _SPENT}.get(caller.budget_per)
        ask = ("GET", _ever(caller.id)) if hashed is None else ("HGET", _month(caller.id, day[:7]), hashed)
        try:
            written: bytes | None = await self._stored.do(command(*ask))
        except StoreError:
            self._unchecked()
            return None
        return (int(written or 0) + self._waiting(caller.id, day, hashed)) / COST_UNITS

    def _waiting(self, key: str, day: str, hashed: str | None) -> int:
        """What is not written yet of a key's spending: of a month, where it is not of all time."""
        field = hashed or _SPENT
        parts = [(part.key, part.month, part.counts) for part in self._parts]
        parts += [(of, month, counts) for (of, month), counts in self._counts.items()]
        return sum(
            counts.get(field, 0) for of, month, counts in parts if of == key and (hashed is None or month == day[:7])
        )

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Write the counts to the store every second as long as the block lasts, and once more at its end."""
        return repeating(self.write, _EVERY)

    async def write(self) -> None:
        """Write what is not written yet. Raises `StoreError`: then it is still there, and written another time."""
        async with self._writing:
            counts, self._counts = self._counts, {}
            self._parts += [_Part(*of, count, secrets.token_hex(8)) for of, count in counts.items()]
            if self._stored is None:
                return
            while self._parts:
                batch = self._parts[:NAMES_AT_ONCE]
                await self._stored.do(lambda client, batch=batch: self._add(client, batch))  # type: ignore[misc]
                del self._parts[: len(batch)]

    async def _add(self, client: Redis, parts: Sequence[_Part]) -> None:
        add, pipe = client.register_script(_ADD), client.pipeline(transaction=False)
        for part in parts:
            life, spent = int(self._seconds) + 31 * 86_400, part.counts.get(_SPENT, 0)
            fields = [each for pair in part.counts.items() for each in pair]
            names = [_mark(part), _month(part.key, part.month), _ever(part.key)]
            await add(keys=names, args=[_MARK_SECONDS, life, spent, *fields], client=pipe)
        await pipe.execute()


def _month(key: str, month: str) -> str:
    """What a key used in a month; the braces put all of a key on one node of a Redis cluster."""
    return f"symmoe:usage:{{{key}}}:{month}"


def _ever(key: str) -> str:
    return f"symmoe:usage:{{{key}}}:spent"


def _mark(part: _Part) -> str:
    return f"symmoe:usage:{{{part.key}}}:part:{part.name}"


async def usage_between(
    stored: Stored, first: date, last: date, by: Sequence[By], key: str | None = None
) -> list[dict[str, Any]]:
    """What was used on the days from `first` to `last`, added up `by` what is named, of one `key` or of all.

    Each row has the counts, and `cost` in the pool's currency; by key also its name, budget and what is spent of that.
    Requests are not told by expert: several may answer one. Raises `StoreError`.
    """
    records = {record.whose: record for record in await everyone(stored)}
    keys = [key] if key is not None else [*records, NOBODY]
    months = sorted({(first + timedelta(days=n)).strftime("%Y-%m") for n in range((last - first).days + 1)})
    names = [(each, month) for each in keys for month in months]
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for start in range(0, len(names), NAMES_AT_ONCE):
        batch = names[start : start + NAMES_AT_ONCE]
        month_rows = await _months(stored, [_month(*each) for each in batch])
        for (owner, month), counts in zip(batch, month_rows, strict=True):
            for field, count in counts.items():
                _sum_up(sums, owner, month, field, count, first, last, by)
    rows = [_row(by, place, counts) for place, counts in sorted(sums.items())]
    if list(by) == ["key"]:
        for row in rows:
            row |= await _of_key(stored, records.get(row["key"]))
    return rows


def _sum_up(
    sums: dict[tuple[str, ...], Counter[str]],
    key: str,
    month: str,
    field: bytes,
    count: bytes,
    first: date,
    last: date,
    by: Sequence[By],
) -> None:
    """Add one field of a key's month where it is asked for; a spoilt one is as good as none."""
    match = _FIELD.fullmatch(field)
    if match is None or _COUNT.fullmatch(count) is None:
        return
    day, expert, name = (part.decode(errors="replace") for part in match.groups())
    on = f"{month}-{day}"
    if not first.isoformat() <= on <= last.isoformat():
        return
    if (expert == _ALL) != (name == "requests") or ("expert" in by and expert == _ALL):
        return
    values = {"day": on, "key": key, "expert": expert}
    sums.setdefault(tuple(values[dimension] for dimension in by), Counter())[name] += int(count)


def _row(by: Sequence[By], place: Sequence[str], counts: Mapping[str, int]) -> dict[str, Any]:
    names = [name for name in _COUNTS if name != "requests" or "expert" not in by]
    row: dict[str, Any] = {**dict(zip(by, place, strict=True)), **{name: counts.get(name, 0) for name in names}}
    return {**row, "cost": row["cost"] / COST_UNITS}


async def _of_key(stored: Stored, record: KeyRecord | None) -> dict[str, Any]:
    """A key's name and budget."""
    if record is None:
        return {"name": None, "budget": None}
    if record.budget is None:
        return {"name": record.name, "budget": None}
    caller = Caller(record.whose, budget=record.budget, budget_per=record.budget_per)
    spent = await Usage(stored, 0.0, lambda: None).spent(caller)
    return {"name": record.name, "budget": {"amount": record.budget, "per": record.budget_per, "spent": spent}}


async def _months(stored: Stored, names: Sequence[str]) -> list[dict[bytes, bytes]]:
    async def work(client: Redis) -> list[dict[bytes, bytes]]:
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(name)
        rows: list[dict[bytes, bytes]] = await pipe.execute()
        return rows

    return await stored.do(work)
