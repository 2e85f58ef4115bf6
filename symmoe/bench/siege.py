"""`symmoe bench siege`: how much one hostile key can harm all others.

Friendly clients and a friendly batch are measured twice: alone, and beside a key limited to one request a minute that
repeats attacks which once made the service unavailable. Attacks go only to the service under test, are bounded in
bytes and connections, and end with the measurement.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from symmoe.bench.clients import Ask, Load, Outcome, closed, crowd, quantile, summary, texts
from symmoe.bench.machine import in_environment, own_state, resident, steady_name
from symmoe.bench.services import Side, symmoe_serve
from symmoe.config import Pool
from symmoe.deployments.access.keys import KeyRecord, add, new_id, new_key
from symmoe.deployments.storage import Storage
from symmoe.errors import EngineError
from symmoe.policy import AUTO

SLOWER_TARGET = 2.0
"""The 99th percentile of friendly clients under attack may be at most so many times that without."""
GROWTH_TARGET = 1.2
"""The memory of any process under attack may be at most so many times that without."""
_CLIENTS = 10
_LINES = 200
_MIB = 1 << 20
_CHAT, _FILES, _BATCHES = "/v1/chat/completions", "/v1/files", "/v1/batches"
_SETTLE_SECONDS = 20.0
_STEP = 3
"""The first attack moves on by so many each round; coprime to the number of attacks, so that each is first once."""


@dataclass(slots=True)
class Hostile:
    """A client with the hostile key: the service, the current attack and round, and counts of answers by attack."""

    url: str
    key: str = field(repr=False)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    attack: str = ""
    round: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """The header with its key."""
        return {"authorization": f"Bearer {self.key}"}

    async def post(self, client: httpx.AsyncClient, path: str, **request: Any) -> httpx.Response | None:
        """Send a request and count its status. Returns None if the connection ended without a response."""
        try:
            response = await client.post(path, headers=self.headers, **request)
        except httpx.HTTPError as error:
            self.note(type(error).__name__)
            return None
        self.note(str(response.status_code))
        return response

    def note(self, answer: str) -> None:
        """Count an answer to the current attack."""
        self.answers.setdefault(self.attack, Counter())[answer] += 1

    @contextmanager
    def raw(self) -> Iterator[Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]]:
        """Yields a function that opens plain connections; all are closed when the block ends."""
        at = urlsplit(self.url)
        opened: list[asyncio.StreamWriter] = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            opened.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in opened:
                writer.close()


def _question(text: str, **more: Any) -> dict[str, Any]:
    return {"model": AUTO, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "string", "pattern": "[\\u0000-\\uffff]{1,20000}"},
    {"type": "object", "minProperties": 100, "properties": {f"p{n}": {"type": "integer"} for n in range(300)}},
    {"type": "string", "pattern": "((a{1,500}){1,500}){1,500}"},
    {"type": "string", "pattern": "{1,129}"},
)
"""Schemas that once ended the engine, blocked all other schemas for minutes, or gave empty answers."""


async def schemas(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """Schemas that take very long to compile."""
    first = hostile.round % len(SCHEMAS)
    for schema in (*SCHEMAS[first:], *SCHEMAS[:first]):
        await hostile.post(client, _CHAT, json=_question("say x", response_format=_schema(schema)))


async def long_prompts(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """Four concurrent prompts of nearly a megabyte, which are refused."""
    words = "word " * 190_000
    await asyncio.gather(*(hostile.post(client, _CHAT, json=_question(words)) for _ in range(4)))


async def half_bodies(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """1,100 requests whose bodies never end."""
    head = f"POST {_CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {hostile.key}\r\n"
    head += "content-type: application/json\r\ncontent-length: 500\r\n\r\n{"
    with hostile.raw() as connect:
        for _ in range(1100):
            with suppress(OSError):
                _, writer = await connect()
                writer.write(head.encode())
        await asyncio.sleep(_SETTLE_SECONDS)


async def silence(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """500 connections that send nothing, or half a header."""
    with hostile.raw() as connect:
        for number in range(500):
            with suppress(OSError):
                _, writer = await connect()
                writer.write(b"POST /v1" if number % 2 else b"")
        await asyncio.sleep(_SETTLE_SECONDS)


async def endless_get(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """A GET with a body of up to 512 MiB."""
    head = "GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * _MIB + b"\r\n"
    with hostile.raw() as connect, suppress(OSError):
        _, writer = await connect()
        writer.write(head.encode())
        for _ in range(512):
            writer.write(chunk)
            await asyncio.wait_for(writer.drain(), _SETTLE_SECONDS)


async def starving_batch(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """A batch of 1,000 lines, of which the key may ask one a minute."""
    await _batch(hostile, client, _lines(1000))


async def multiplying_batch(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """Lines that each ask for 16 choices of 512 tokens."""
    await _batch(hostile, client, _lines(2000, n=16, temperature=1.0, max_tokens=512))


async def many_batches(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """300 batches of one line each, and as many lists of them."""
    file = await _upload(hostile, client, _lines(1))
    for _ in range(300):
        if file is not None:
            await hostile.post(client, _BATCHES, json=_wanted(file))
        with suppress(httpx.HTTPError):
            await client.get(_BATCHES, headers=hostile.headers)


async def newlines(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """A file of 32 MiB of newlines; its batch is cancelled."""
    made = await _batch(hostile, client, b"\n" * (32 * _MIB))
    if made is not None:
        await hostile.post(client, f"{_BATCHES}/{made}/cancel")


async def other_names(hostile: Hostile, client: httpx.AsyncClient) -> None:
    """A foreign host name, and headers that only the proxy may set."""
    own = {"host": "evil.example", "x-request-disconnect-disabled": "true", "x-request-timeout-seconds": "0.001"}
    for _ in range(20):
        with suppress(httpx.HTTPError):
            response = await client.post(_CHAT, headers={**hostile.headers, **own}, json=_question("say x"))
            hostile.note(str(response.status_code))


ATTACKS: tuple[Callable[[Hostile, httpx.AsyncClient], Awaitable[None]], ...] = (
    schemas,
    long_prompts,
    half_bodies,
    silence,
    endless_get,
    starving_batch,
    multiplying_batch,
    many_batches,
    newlines,
    other_names,
)


def _lines(count: int, **more: Any) -> bytes:
    bodies = ({"custom_id": f"l{n}", "body": _question(f"Calculate {n} + 9.", **more)} for n in range(count))
    rows = (json.dumps({"method": "POST", "url": _CHAT, **each}) for each in bodies)
    return "\n".join(rows).encode()


def _wanted(file: str) -> dict[str, Any]:
    return {"input_file_id": file, "endpoint": _CHAT, "completion_window": "24h"}


async def _upload(hostile: Hostile, client: httpx.AsyncClient, content: bytes) -> str | None:
    response = await hostile.post(client, _FILES, files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"})
    return str(response.json()["id"]) if response is not None and response.status_code == 200 else None


async def _batch(hostile: Hostile, client: httpx.AsyncClient, content: bytes) -> str | None:
    file = await _upload(hostile, client, content)
    response = None if file is None else await hostile.post(client, _BATCHES, json=_wanted(file))
    return str(response.json()["id"]) if response is not None and response.status_code == 200 else None


@dataclass(frozen=True, slots=True)
class SiegeLoad:
    """The load: `minutes` in all, a third without attacks; friendly `clients`, and `lines` of a friendly batch."""

    minutes: float = 10.0
    clients: int = _CLIENTS
    lines: int = _LINES
    max_tokens: int = 48
    seed: int = 0


def measure_siege(pool: Pool, named: str, load: SiegeLoad, tell: Callable[[str], None]) -> dict[str, Any]:
    """Latency, errors, batch counts and memory by process, without and under attack, and which bars are met.

    Raises `EngineError` if the service does not start or no friendly request is answered.
    """
    with own_state() as environment:
        friend, foe = _keys(environment)
        tell("starting the service")
        with symmoe_serve(named, ["--keys"], environment) as side:
            tell(f"quiet: {load.clients} clients and a batch")
            quiet = _part(pool, side, load, friend, 60 * load.minutes / 3, None)
            hostile = Hostile(side.url, foe)
            tell(f"under siege: the same beside {len(ATTACKS)} attacks in turn")
            sieged = _part(pool, side, replace(load, seed=load.seed + 1), friend, 40 * load.minutes, hostile)
    return _report(load, quiet, sieged, hostile)


@dataclass(slots=True)
class _Part:
    """Measurements of one part: outcomes, counts of the batch, peak and last bytes by process, and attacks made."""

    outcomes: list[Outcome]
    batch: dict[str, Any]
    most: dict[str, int]
    last: dict[str, int]
    attacks: list[str]


def _part(pool: Pool, side: Side, load: SiegeLoad, key: str, seconds: float, hostile: Hostile | None) -> _Part:
    asks = [Ask(AUTO, text, load.max_tokens, n % 2 == 0) for n, text in enumerate(texts(pool, 200, load.seed))]
    sent: Load = replace(closed(asks, load.clients, seconds), key=key)
    finished = threading.Event()
    peaks: dict[str, int] = {}
    last: dict[str, int] = {}
    attacks: list[str] = []

    def watch() -> None:
        while not finished.wait(1.0):
            last.clear()
            last.update(resident(side.pid))
            for name, size in last.items():
                peaks[name] = max(peaks.get(name, 0), size)

    watching = threading.Thread(target=watch, daemon=True)
    besieging = threading.Thread(target=lambda: asyncio.run(_besiege(hostile, finished, attacks)), daemon=True)
    watching.start()
    if hostile is not None:
        besieging.start()
    try:
        with httpx.Client(base_url=side.url, trust_env=False, timeout=60) as client:
            batch = _friendly_batch(client, key, load.lines)
            outcomes = crowd(side.url, sent)
            counts = _finished(client, key, batch)
    finally:
        finished.set()
        watching.join()
        if hostile is not None:
            besieging.join(60)
    return _Part(outcomes, counts, dict(peaks), dict(last), attacks)


async def _besiege(hostile: Hostile | None, finished: threading.Event, done: list[str]) -> None:
    """Make the attacks in turn, repeatedly, until `over` is set.

    Each round begins with another attack, since the key is allowed only its first request of a minute.
    """
    if hostile is None:
        return
    async with httpx.AsyncClient(base_url=hostile.url, trust_env=False, timeout=60) as client:
        while not finished.is_set():
            first = _STEP * hostile.round % len(ATTACKS)
            for attack in (*ATTACKS[first:], *ATTACKS[:first]):
                hostile.attack = attack.__name__
                task = asyncio.ensure_future(attack(hostile, client))
                while not task.done() and not finished.is_set():
                    await asyncio.wait([task], timeout=0.5)
                if not task.done():
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                done.append(attack.__name__)
                if finished.is_set():
                    return
            hostile.round += 1


def _friendly_batch(client: httpx.Client, key: str, lines: int) -> str:
    headers = {"authorization": f"Bearer {key}"}
    file = client.post(
        _FILES, headers=headers, files={"file": ("friend.jsonl", _lines(lines))}, data={"purpose": "batch"}
    )
    made = client.post(_BATCHES, headers=headers, json=_wanted(file.raise_for_status().json()["id"]))
    return str(made.raise_for_status().json()["id"])


def _finished(client: httpx.Client, key: str, batch: str) -> dict[str, Any]:
    """The counts of a batch once it has ended; waits at most ten minutes."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        found = client.get(f"{_BATCHES}/{batch}", headers={"authorization": f"Bearer {key}"}).raise_for_status().json()
        if found["status"] in ("completed", "failed", "expired", "cancelled"):
            return {"status": found["status"], **found["request_counts"]}
        time.sleep(1.0)
    return {"status": "not over after ten minutes"}


def _keys(environment: Mapping[str, str]) -> tuple[str, str]:
    """Create a key without limits and one for a request a minute, in the store that `environment` selects."""
    friend, foe = new_key(), new_key()

    async def make() -> None:
        storage = Storage()
        try:
            now = time.time()
            await add(storage, friend, KeyRecord(new_id(), "friend", now))
            await add(storage, foe, KeyRecord(new_id(), "foe", now, requests_per_minute=1))
        finally:
            await storage.close()

    with in_environment(environment):
        asyncio.run(make())
    return friend, foe


def _report(load: SiegeLoad, quiet: _Part, sieged: _Part, hostile: Hostile) -> dict[str, Any]:
    parts = {"quiet": summary(quiet.outcomes), "sieged": summary(sieged.outcomes)}
    slower = _p99(sieged.outcomes) / _p99(quiet.outcomes)
    grown = _grown(quiet, sieged)
    broken = {name: found["kinds"].get("broken", 0) for name, found in parts.items()}
    whole = sieged.batch.get("completed") == load.lines and quiet.batch.get("completed") == load.lines
    met = {
        "p99": slower <= SLOWER_TARGET,
        "no_error": not broken["sieged"],
        "memory": max(grown.values(), default=0.0) <= GROWTH_TARGET,
        "batch_whole": whole,
    }
    return {
        "minutes": load.minutes,
        "clients": load.clients,
        "lines": load.lines,
        **parts,
        "p99_times": round(slower, 3),
        "p99_target": SLOWER_TARGET,
        "batch": {"quiet": quiet.batch, "sieged": sieged.batch},
        "attacks": dict(Counter(sieged.attacks)),
        "hostile_answers": {attack: dict(found.most_common()) for attack, found in hostile.answers.items()},
        "memory_times": dict(sorted(grown.items(), key=lambda item: -item[1])),
        "memory_mib": {name: round(size / _MIB, 1) for name, size in sorted(sieged.most.items())},
        "memory_target": GROWTH_TARGET,
        "bars": met,
        "met": all(met.values()),
    }


def _p99(outcomes: Sequence[Outcome]) -> float:
    answered = [outcome.ended - outcome.began for outcome in outcomes if outcome.kind == "answer"]
    if not answered:
        raise EngineError("no friendly request was answered", hint="see the service's log, or measure for longer")
    return quantile(answered, 0.99)


def _grown(quiet: _Part, sieged: _Part) -> dict[str, float]:
    """The peak memory of each process under attack, divided by its memory at the end of the quiet part."""
    return {
        steady_name(name): round(size / quiet.last[name], 3)
        for name, size in sieged.most.items()
        if quiet.last.get(name, 0) > 0
    }
