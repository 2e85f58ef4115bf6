"""Batch jobs in this process: echo experts, a tagger that needs no model, a store that is a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from symmoe.batch.job import BatchJob, run_batch
from symmoe.batch.progress import BatchResult, Status
from symmoe.batch.record import Candidates
from symmoe.build import Assembly, fingerprint
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError, StoreError
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.rows.shapes import Reading
from symmoe.types import Call, Candidate, Generation

from ..conftest import SKILLS, echo_pool
from ..fakes import NamingTagger

Rows = list[dict[str, Any]]


class CountingEngine(EchoEngine):
    """An echo engine that counts its generations, and breaks after `lasts` of them."""

    def __init__(self, window: int = 64, lasts: int | None = None) -> None:
        super().__init__(window)
        self.lasts = lasts
        self.asked: list[str] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            if len(self.asked) == self.lasts:
                raise EngineError("the engine died")
            self.asked.append(f"{call.expert}: {call.query.text}")
            yield call, generation


@dataclass
class MemoryStore:
    """A store in a dictionary that keeps nothing but JSON, and refuses every write after the first `lasts`."""

    lasts: int | None = None
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    writes: int = 0

    def put(self, table: str, rows: Mapping[str, dict[str, Any]]) -> None:
        if self.writes == self.lasts:
            raise StoreError("the store is gone")
        self.writes += 1
        for key, row in rows.items():
            self.tables.setdefault(table, {}).setdefault(key, json.dumps(row))

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        return {key: json.loads(row) for key, row in self.tables.get(table, {}).items()}

    def drop(self, tables: Iterable[str]) -> None:
        for table in tables:
            self.tables.pop(table, None)


@dataclass
class Bench:
    """A folder with an input file, and jobs that answer it."""

    folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    engine: CountingEngine = field(default_factory=CountingEngine)

    @property
    def source(self) -> Path:
        return self.folder / "in.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    def write(self, *rows: Mapping[str, Any] | bytes) -> None:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        self.source.write_bytes(b"".join(line + b"\n" for line in lines))

    def job(
        self,
        *,
        k: int = 3,
        seed: int = 0,
        source: Path | None = None,
        output: Path | None = None,
        stop: bool = True,
        max_error_rate: float = 1.0,
        reading: Reading = Reading(),  # noqa: B008 - frozen
        **pool: Any,
    ) -> BatchJob:
        described = read_pool(str(echo_pool(self.folder / "pool", **pool)))
        files = (str(source or self.source),), output or self.output
        decided = described, fingerprint(described), k, seed
        return BatchJob(*files, *decided, stop=stop, max_error_rate=max_error_rate, reading=reading)

    def run(
        self,
        resume: bool = False,
        watch: Watch = UNWATCHED,
        again: bool = False,
        on_status: Callable[[Status], None] = lambda status: None,
        **options: Any,
    ) -> BatchResult:
        job = self.job(**options)
        assembly = Assembly(job.pool, tagger=NamingTagger(*SKILLS))
        assembly.engine = self.engine
        return run_batch(job, assembly, self.store, resume, watch, again, on_status)

    @property
    def kept(self) -> list[Candidate]:
        """The candidates that an interrupted run left."""
        return [candidate for *_, candidate in Candidates(self.job().files.folder).stored()]

    def rows(self) -> Rows:
        return read_jsonl(self.output)

    def traces(self) -> Rows:
        return read_jsonl(self.folder / "out.trace.jsonl")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def benches(tmp_path: Path) -> Callable[[], Bench]:
    """Benches in folders of their own."""

    def another() -> Bench:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return Bench(folder)

    return another


def read_jsonl(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ids(rows: Rows) -> list[str | None]:
    return [row["custom_id"] if "custom_id" in row else row["symmoe_id"] for row in rows]


def content(row: dict[str, Any]) -> str:
    """A row's answer, or the code of the error that stands for it."""
    if "response" not in row:
        return str(row["symmoe_error_code"] or row["answer"])
    body = row["response"]["body"]
    return str(body["error"]["code"] if "error" in body else body["choices"][0]["message"]["content"])


def essence(rows: Rows) -> list[tuple[Any, ...]]:
    """What must not differ between two runs of one job: ids, words, tokens and errors."""
    return [
        (name, row.get("error"), row.get("symmoe_error"), row.get("symmoe_completion_tokens"), content(row))
        for name, row in zip(ids(rows), rows, strict=True)
    ]


def questions(count: int, distinct: int | None = None) -> Rows:
    """Plain lines on every skill in turn, every fourth on none; only `distinct` prompts among them."""
    topics = (*SKILLS, "nothing")
    return [
        {"id": f"q{number}", "prompt": f"{topics[number % (distinct or count) % 4]} {number % (distinct or count)}"}
        for number in range(count)
    ]
