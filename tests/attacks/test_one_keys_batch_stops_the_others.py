"""A key that may ask once a minute makes a batch of a thousand lines: other keys' batches must not wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import client, keyed, make_key
from tests.deployments.batches.conftest import ended, exactly_once, line, start
from tests.stores import state_in


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def test_a_friendly_batch_is_answered_beside_one_of_a_key_over_its_limit(folder: Path) -> None:
    hostile, friendly = make_key(requests_per_minute=1)[0], make_key()[0]
    with keyed(folder, Settings(batch_lines_open=16)) as served:
        start(client(served, hostile), [line(number) for number in range(1000)])
        until = time.monotonic() + 20
        while served.metric('symmoe_refused_total{why="requests"}') < 1:
            assert time.monotonic() < until
        friend = client(served, friendly)
        exactly_once(friend, ended(friend, start(friend, [line(number) for number in range(10)])), 10)


def test_a_key_over_its_limit_is_asked_for_once_and_not_once_for_each_line(folder: Path) -> None:
    hostile, friendly = make_key(requests_per_minute=1)[0], make_key()[0]
    with keyed(folder, Settings()) as served:
        start(client(served, hostile), [line(number) for number in range(1000)])
        friend = client(served, friendly)
        exactly_once(friend, ended(friend, start(friend, [line(number) for number in range(300)])), 300)
        assert served.metric('symmoe_refused_total{why="requests"}') <= 2
        assert served.metric('symmoe_batch_lines_total{outcome="retried"}') == 0
