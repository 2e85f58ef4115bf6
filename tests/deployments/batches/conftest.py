"""A service with a store of its own that keeps every write at once, and batches to give it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import openai
import pytest
from openai.types import Batch
from prometheus_client import CollectorRegistry
from symmoe.deployments.batches.answering import BatchMetrics, BatchResources, Window
from symmoe.deployments.batches.quota import Grants
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running
from tests.stores import state_in

ENDS = {"completed", "failed", "expired", "cancelled"}
SKILLS = ("sums", "spanish", "sorting")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service for all tests of a module."""
    folder = tmp_path_factory.mktemp("service")
    with state_in(folder), running(folder, Settings(most_file_bytes=1 << 20, batch_lease=1.0)) as service:
        yield service


@pytest.fixture
def client(service: Running) -> openai.OpenAI:
    return service.openai


def line(number: int, **changed: Any) -> Row:
    """A good line, for an expert that is asked by skill or by name."""
    text = f"{SKILLS[number % 3]} {number}"
    body = {"model": "symmoe/fast", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **changed}


def jsonl(rows: Iterable[Row | str]) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def start(client: openai.OpenAI, rows: Iterable[Row | str] | bytes, **options: Any) -> Batch:
    """Upload lines and have a batch made of them."""
    raw = rows if isinstance(rows, bytes) else jsonl(rows)
    file = client.files.create(file=("lines.jsonl", raw), purpose="batch")
    window, endpoint = "24h", "/v1/chat/completions"
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window, **options)  # type: ignore[arg-type]


def ended(client: openai.OpenAI, batch: Batch, seconds: float = 240.0) -> Batch:
    """The batch once nothing more becomes of it."""
    return until(client, batch, lambda found: found.status in ENDS, seconds)


def until(client: openai.OpenAI, batch: Batch, there: Any, seconds: float = 240.0) -> Batch:
    """The batch once something holds of it; a service that is away for a moment is asked again."""
    limit = time.monotonic() + seconds
    found: Batch | None = None
    while True:
        assert time.monotonic() < limit, found
        try:
            found = client.batches.retrieve(batch.id)
        except (openai.InternalServerError, openai.APIConnectionError):
            time.sleep(0.1)
            continue
        if there(found):
            return found
        time.sleep(0.02)


def rows_of(client: openai.OpenAI, ident: str | None) -> list[Row]:
    """The rows of an output file; none where there is no file."""
    return [] if ident is None else [json.loads(row) for row in client.files.content(ident).text.splitlines()]


def texts(rows: Sequence[Row]) -> dict[str, str]:
    """The answers by their lines' own ids."""
    return {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}


def expected(numbers: Iterable[int]) -> dict[str, str]:
    names = dict(zip(SKILLS, ("adder", "speaker", "sorter"), strict=True))
    return {f"line-{n}": f"{names[SKILLS[n % 3]]}: {SKILLS[n % 3]} {n}" for n in numbers}


def exactly_once(client: openai.OpenAI, batch: Batch, count: int) -> None:
    """Every line of a completed batch is answered, once, as it should be, in its order."""
    assert batch.status == "completed", batch
    rows = rows_of(client, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(count)]
    assert texts(rows) == expected(range(count))
    assert batch.error_file_id is None
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (count, count, 0)


def resources(ask: Any, progress: Any, room: int, pause: float) -> BatchResources:
    """What the batches of a process share, for keys without limits."""

    async def at_once(owner: str) -> float:
        return 0.0

    async def endless(owner: str) -> int:
        return 1 << 62

    metrics = BatchMetrics(CollectorRegistry())
    return BatchResources(
        ask, progress, Window(lambda: room), metrics, lambda note: None, at_once, Grants(endless), pause
    )
