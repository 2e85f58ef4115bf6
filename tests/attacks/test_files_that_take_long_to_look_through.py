"""Files of nothing but newlines, or of one endless line: looking through them is bounded and stops with the batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.batches.answering import Turns
from symmoe.deployments.batches.input import BadInputError, StoppedError, find_lines
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import running
from tests.deployments.batches.conftest import ended, exactly_once, line, start
from tests.stores import state_in

MOST_LINES = Settings().most_batch_lines
LINE = b'{"custom_id":"a"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def test_a_file_of_newlines_is_no_batch_and_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\n" * (64 << 20))
    began = time.process_time()
    with pytest.raises(BadInputError) as refused:
        find_lines(path, 1 << 20, MOST_LINES, lambda: False)
    assert refused.value.code == "too_many_lines"
    assert time.process_time() - began < 2.0  # of the ten that all of it takes


def test_as_many_blank_lines_as_requests_may_stand_between_them(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes((LINE + b"\n") * MOST_LINES)
    assert len(find_lines(path, 1 << 20, MOST_LINES, lambda: False)) == MOST_LINES


def test_how_many_lines_a_batch_may_have_is_for_the_service_to_say(folder: Path) -> None:
    with running(folder, Settings(most_batch_lines=2)) as service:
        exactly_once(service.openai, ended(service.openai, start(service.openai, [line(0), line(1)])), 2)
        over = ended(service.openai, start(service.openai, [line(n) for n in range(3)]))
    assert over.status == "failed"
    assert [error.code for error in over.errors.data] == ["too_many_requests"]


@pytest.mark.parametrize("raw", [b" " * (8 << 20), (b"x" * 99 + b"\n") * 40_000], ids=["one line", "many lines"])
def test_looking_through_a_file_stops_soon_after_its_batch(tmp_path: Path, raw: bytes) -> None:
    path, asked = tmp_path / "lines", list[int]()
    path.write_bytes(raw)

    def stopped() -> bool:
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(StoppedError):
        find_lines(path, 1 << 20, MOST_LINES, stopped)


def test_a_batch_that_is_cancelled_while_its_file_is_looked_through_ends_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = threading.Event()

    def slowly(*args: object, stopped: object = None, **options: object) -> None:
        looking.set()
        assert callable(stopped)
        while not stopped():
            time.sleep(0.005)
        raise StoppedError

    with running(folder, Settings(batch_lease=1.0)) as service:
        with monkeypatch.context() as patch:
            patch.setattr("symmoe.deployments.batches.job.find_lines", slowly)
            batch = start(service.openai, [line(0)])
            assert looking.wait(10)
            service.openai.batches.cancel(batch.id)
            over = ended(service.openai, batch)
        assert over.status == "cancelled"
        assert (over.output_file_id, over.error_file_id) == (None, None)
        exactly_once(service.openai, ended(service.openai, start(service.openai, [line(0)])), 1)


def test_requests_are_answered_while_a_file_is_looked_through(tmp_path: Path) -> None:
    """The event loop goes on beside it, whatever the file is like."""
    path = tmp_path / "lines"
    path.write_bytes((b'{"a":' + b"[" * 20 + b"]" * 20 + b"}\n") * MOST_LINES)

    async def play() -> tuple[int, bool]:
        scan, turns = asyncio.ensure_future(asyncio.to_thread(find_lines, path, 1 << 20, MOST_LINES, lambda: False)), 0
        while not scan.done():
            await asyncio.sleep(0)
            turns += 1
        return turns, len(scan.result()) == MOST_LINES

    turns, whole = asyncio.run(play())
    assert whole
    assert turns > 10


def test_files_of_one_key_that_take_long_keep_no_other_keys_waiting_for_more_than_one() -> None:
    async def play() -> list[str]:
        turns, order = Turns(), list[str]()

        async def look(owner: str) -> None:
            async with turns.turn(owner):
                order.append(owner)
                await asyncio.sleep(0)

        await asyncio.gather(*(look("hostile") for _ in range(8)), look("friendly"))
        return order

    assert asyncio.run(play()).index("friendly") <= 1
