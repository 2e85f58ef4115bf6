"""A batch of long lines that each ask for sixteen choices: what comes of it must fill neither memory nor the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai.types import Batch
from symmoe.deployments.batches.files import BATCH
from symmoe.deployments.batches.segments import Segments
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running
from tests.deployments.batches.conftest import Row, ended, exactly_once, line, rows_of, start, until
from tests.deployments.batches.test_batches import peak
from tests.deployments.batches.test_faults import process
from tests.deployments.batches.test_files import bounded, client_of
from tests.stores import connected, state_in

CHOICES = 16
LARGE = 1_000_000
IDS = ["line-0", "line-1", "line-3"]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path) as folder:
        yield folder


def long(number: int, size: int = LARGE) -> Row:
    """A line of one word of so many bytes, which is echoed for each choice."""
    messages = [{"role": "user", "content": "x" * size}]
    return line(number, body={"model": "adder", "messages": messages, "n": CHOICES})


def counted(batch: Batch) -> tuple[int, int]:
    assert batch.request_counts is not None
    return batch.request_counts.completed, batch.request_counts.failed


@pytest.mark.parametrize("count", [6, pytest.param(90, marks=pytest.mark.slow)])
def test_neither_the_service_nor_the_store_grows_with_the_rows(stored: Path, tmp_path: Path, count: int) -> None:
    with process(tmp_path, 0.0) as service:
        exactly_once(service.client, ended(service.client, start(service.client, [line(0)])), 1)
        ended(service.client, start(service.client, [long(0)]))
        file = service.client.files.create(file=("f", many(tmp_path / "lines", count)), purpose="batch")
        before, store = peak(service.pid), connected()
        said = store.info("stats")["total_net_input_bytes"]
        batch = service.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        over = ended(service.client, batch, 300)
        assert counted(over) == (count, 0)
        output = service.client.files.retrieve(str(over.output_file_id))
        assert output.bytes > count * CHOICES * LARGE
        grown = peak(service.pid) - before
        written = store.info("stats")["total_net_input_bytes"] - said
        most = store.info("memory")["used_memory_peak"] / (1 << 20)
        assert written < 4 << 20, (written, most, grown)
        assert most < 16, (written, most, grown)
        assert grown < 64, (written, most, grown)


def many(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps(long(number)) + "\n")
    return path


def test_rows_count_against_the_files_of_their_key_and_a_batch_that_passes_them_ends(tmp_path: Path) -> None:
    room, size = 2_000_000, 20_000
    with bounded(tmp_path, most_files_bytes=room) as service:
        mine = client_of(service)
        over = ended(mine, start(mine, [long(number, size) for number in range(20)]))
        assert over.status == "failed"
        assert over.errors is not None
        assert over.errors.data is not None
        assert [error.code for error in over.errors.data] == ["file_quota_exceeded"]
        answered, refused = rows_of(mine, over.output_file_id), rows_of(mine, over.error_file_id)
        assert len(answered) + len(refused) == 20
        assert 0 < len(answered) < 6
        assert {row["error"]["code"] for row in refused} == {"file_quota_exceeded"}
        output = mine.files.retrieve(str(over.output_file_id))
        assert output.bytes + 20 * size < room
        yours = client_of(service, "yours")
        assert counted(ended(yours, start(yours, [long(0, size)]))) == (1, 0)  # others have room of their own


def test_what_is_coming_of_a_batch_leaves_no_room_for_uploads(tmp_path: Path) -> None:
    with bounded(tmp_path, most_files_bytes=1_000_000) as service:
        mine = client_of(service)
        held = line(9, body={"model": "adder", "messages": [{"role": "user", "content": "hold on"}]})
        batch = start(mine, [long(0, 50_000), held])
        until(mine, batch, lambda found: found.request_counts.completed == 1)
        with pytest.raises(openai.APIStatusError) as refused:
            mine.files.create(file=("f", b"x" * 300_000), purpose="batch")
        assert refused.value.code == "file_quota_exceeded"


@contextmanager
def half_done(folder: Path) -> Iterator[tuple[Running, Batch]]:
    """A batch of which two lines have their rows and one waits."""
    held = line(1, body={"model": "adder", "messages": [{"role": "user", "content": "sums hold"}]})
    with running(folder, Settings(batch_lease=1.0)) as service:
        batch = start(service.openai, [line(0), held, line(3)])
        until(service.openai, batch, lambda found: found.request_counts.completed == 2)
        yield service, batch


def test_rows_that_the_disk_lost_are_asked_for_again(stored: Path, tmp_path: Path) -> None:
    """As after a power cut: where rows stand is known, but not all of them are there, or as they were."""
    with half_done(tmp_path) as (service, batch):
        (segment,) = (stored / "files" / "rows" / batch.id).iterdir()
        raw = bytearray(segment.read_bytes())
        raw[raw.index(b"line-0")] ^= 1
        segment.write_bytes(raw[:-100])
        service.engine.released.set()
        over = ended(service.openai, batch)
        assert counted(over) == (3, 0)
        assert [row["custom_id"] for row in rows_of(service.openai, over.output_file_id)] == IDS
        assert [query.text for query in service.engine.asked].count("sums 0") == 2


def test_nothing_is_left_of_rows_once_their_batch_is_over(stored: Path, tmp_path: Path) -> None:
    with half_done(tmp_path) as (service, batch):
        lost = Segments(stored / "files" / "rows")
        lost.write(f"{BATCH}{'0' * 32}", [(["{}"], True)])  # of one that was killed before it could
        service.engine.released.set()
        ended(service.openai, batch)
    with running(tmp_path, Settings(batch_lease=1.0)) as service:
        exactly_once(service.openai, ended(service.openai, start(service.openai, [line(0)])), 1)
        assert lost.left() == []
