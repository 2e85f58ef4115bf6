"""A key makes batches without end, or lets them lie: it is told to stop, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import redis
from symmoe.deployments.batches.batches import CREATE, Batches, BatchRecord, batch_key, keys_of
from symmoe.deployments.batches.files import BATCH, FILE, new_id
from symmoe.deployments.batches.progress import Progress
from symmoe.deployments.batches.segments import Segments
from symmoe.deployments.batches.store_access import Page
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.store import embedded_socket
from tests.deployments.access.conftest import client, keyed, make_key
from tests.deployments.api.conftest import Running
from tests.deployments.batches.conftest import ended, exactly_once, line, start
from tests.stores import connected, state_in

FILE_OF_HOSTILE = f"file-{'1' * 32}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def record(owner: str, **changed: Any) -> BatchRecord:
    now = int(time.time())
    made = BatchRecord(new_id(BATCH), owner, FILE_OF_HOSTILE, new_id(FILE), new_id(FILE), now, now + 86400)
    return replace(made, **changed)


def held_elsewhere(owner: str, count: int) -> None:
    """Have so many batches of an owner open, each leased by another service."""
    pipe = connected().pipeline(transaction=False)
    for each in (record(owner) for _ in range(count)):
        keys = keys_of(each.id, owner, each.input)
        pipe.eval(CREATE, len(keys), *keys, each.id, owner, each.fixed, count)
        pipe.set(f"{batch_key(each.id)}:lease", "another service", px=600_000)
    pipe.execute()


def replies() -> int:
    """Bytes that the store has sent so far."""
    return int(redis.Redis(unix_socket_path=str(embedded_socket())).info("stats")["total_net_output_bytes"])


def create(served: Running, key: str, file: str) -> openai.types.Batch:
    window, endpoint = "24h", "/v1/chat/completions"
    return client(served, key).batches.create(input_file_id=file, endpoint=endpoint, completion_window=window)  # type: ignore[arg-type]


def test_a_new_batch_counts_against_the_limit_of_its_key(folder: Path) -> None:
    key, _ = make_key(requests_per_minute=1)
    with keyed(folder, Settings()) as served:
        batch = start(client(served, key), [line(0)])
        with pytest.raises(openai.RateLimitError) as refused:
            create(served, key, batch.input_file_id)
        assert refused.value.code == "rate_limit_exceeded"
        assert int(refused.value.response.headers["retry-after"]) > 0


def test_open_batches_of_one_key_are_bounded_however_many_are_made_at_once(folder: Path) -> None:
    async def play() -> list[bool]:
        storage = Storage()
        batches = Batches(storage, Settings(most_open_batches=5))
        made = await asyncio.gather(*(batches.create(record("hostile")) for _ in range(40)))
        others = [await batches.create(record("friendly"))]
        assert await batches.open_of("hostile") == (5, 0)
        await storage.close()
        return made + others

    made = asyncio.run(play())
    assert (sum(made[:-1]), made[-1]) == (5, True)


def test_a_key_with_too_many_open_batches_is_told_so(folder: Path) -> None:
    key, _ = make_key()
    held = line(0, body={"model": "adder", "messages": [{"role": "user", "content": "hold"}]})
    with keyed(folder, Settings(most_open_batches=1)) as served:
        batch = start(client(served, key), [held])
        with pytest.raises(openai.RateLimitError, match="1 batches that are not over") as refused:
            create(served, key, batch.input_file_id)
        assert refused.value.code == "too_many_batches"
        served.engine.released.set()
        ended(client(served, key), batch)
        create(served, key, batch.input_file_id)


def test_what_a_call_reads_does_not_grow_with_what_others_left(folder: Path) -> None:
    key, _ = make_key()
    with keyed(folder, Settings()) as served:
        friend = client(served, key)
        exactly_once(friend, ended(friend, start(friend, [line(0)])), 1)
        file = friend.files.create(file=b"{}", purpose="batch").id
        held_elsewhere("hostile", 2000)
        before = replies()
        create(served, key, file)
        friend.batches.list()
        assert replies() - before < 100_000


def test_batches_that_are_over_are_forgotten_after_their_time_and_leave_nothing(folder: Path) -> None:
    settings = Settings(batch_records_seconds=1)

    async def play() -> tuple[int, int]:
        storage = Storage()
        batches, progress = Batches(storage, settings), Progress(storage, Segments(folder), settings)
        for _ in range(30):
            await batches.create(each := record("hostile"))
            await progress.finish(each, "completed")
        listed, _ = await batches.page("hostile", Page(100))
        await asyncio.sleep(2.1)  # by the whole seconds in which it is kept
        while await progress.expire():
            continue
        await storage.close()
        return len(listed), len(connected().keys("symmoe:batch*"))

    assert asyncio.run(play()) == (30, 0)


def test_of_batches_that_are_over_only_the_last_are_kept(folder: Path) -> None:
    settings = Settings(most_batch_records=3)

    async def play() -> tuple[list[str], list[str]]:
        storage = Storage()
        batches, progress = Batches(storage, settings), Progress(storage, Segments(folder), settings)
        made = [record("hostile") for _ in range(8)]
        for each in made:
            await batches.create(each)
            await progress.finish(each, "completed")
            await progress.finish(each, "completed")  # twice is as good as once
        kept, _ = await batches.page("hostile", Page(100, None, "asc"))
        await storage.close()
        return [each.id for each in made[-3:]], [each.id for each in kept]

    wanted, kept = asyncio.run(play())
    assert kept == wanted
    assert len(connected().keys("symmoe:batch:*")) == 3
