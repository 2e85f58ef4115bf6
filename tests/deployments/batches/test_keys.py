"""What a batch owes to the key that made it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.access.key_records import new_key, revoke, rotate
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import ask, client, keyed, make_key, stored
from tests.deployments.batches.conftest import ended, line, rows_of, start, state_in


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def test_lines_are_charged_to_the_key_that_made_the_batch(folder: Path) -> None:
    key, _ = make_key(tokens_per_minute=1000)
    with keyed(folder, Settings()) as served:
        over = ended(client(served, key), start(client(served, key), [line(number) for number in range(4)]))
        rows = rows_of(client(served, key), over.output_file_id)
        used = sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows)
        assert used > 0
        assert ask(served, key).headers["x-ratelimit-remaining-tokens"] == str(1000 - used)


def test_lines_over_a_limit_wait_until_there_is_room(folder: Path) -> None:
    key, _ = make_key(requests_per_minute=3)
    with keyed(folder, Settings()) as served:
        batch = start(client(served, key), [line(number) for number in range(5)])
        until = time.monotonic() + 20
        while served.metric('symmoe_refused_total{why="requests"}') < 1:
            assert time.monotonic() < until
        found = client(served, key).batches.retrieve(batch.id)
        assert (found.status, found.request_counts.failed) == ("in_progress", 0)
        assert found.request_counts.completed <= 2  # making the batch was a request too


def test_what_is_left_of_a_batch_fails_once_its_key_is_revoked(folder: Path) -> None:
    key, record = make_key(requests_per_minute=4)
    with keyed(folder, Settings()) as served:
        start(client(served, key), [line(number) for number in range(5)])
        until = time.monotonic() + 20
        while served.metric('symmoe_batch_lines_total{outcome="answered"}') < 3:
            assert time.monotonic() < until
        stored(lambda storage: revoke(storage, record.id, time.time()))
        while served.metric('symmoe_batch_lines_total{outcome="failed"}') < 2:
            assert time.monotonic() < until + 70


def test_under_a_rotated_key_everything_is_still_there_and_its_batch_goes_on(folder: Path) -> None:
    old, record = make_key(requests_per_minute=30)
    new = new_key()
    with keyed(folder, Settings()) as served:
        batch = start(client(served, old), [line(number) for number in range(2)])
        kept = client(served, old).responses.create(model="adder", input="sums")
        stored(lambda storage: rotate(storage, record.id, new, time.time(), 0.0))
        over = ended(client(served, new), batch)
        assert over.request_counts is not None
        assert over.request_counts.completed == 2
        assert len(rows_of(client(served, new), over.output_file_id)) == 2
        assert client(served, new).responses.retrieve(kept.id).id == kept.id
        served.until('symmoe_batch_lines_total{outcome="answered"}', 2)
        told = served.get("/v1/usage", headers={"authorization": f"Bearer {new}"}).json()["data"]
        assert [row["requests"] for row in told] == [3]
        assert served.get("/v1/key", headers={"authorization": f"Bearer {new}"}).json()["id"] == record.id
        until = time.monotonic() + 20
        while served.get("/v1/key", headers={"authorization": f"Bearer {old}"}).status_code != 401:
            assert time.monotonic() < until
