"""Somebody who can write to the store, and not to the pool file, writes rows about experts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.lifecycle.lifecycle import Lifecycle
from symmoe.deployments.settings import Settings

from symmoe.config import Pool, read_pool
from symmoe.limits import EXPERTS, STANDING_ROW_BYTES
from symmoe.store import open_store, store_url
from tests.conftest import echo_pool
from tests.deployments.api.conftest import running
from tests.deployments.lifecycle.conftest import until
from tests.deployments.lifecycle.test_rule import Moody

RECORD = {"overall": [9, 1], "skills": {"sums": [9, 0]}}
GOOD = {"expert": {"model": "org/base", "adapter": "./poet"}, "record": RECORD}
BAD: Mapping[str, Mapping[str, Any] | bytes] = {
    "remote code": {"expert": {"model": "org/base", "trust_remote_code": True}},
    "remote": {"expert": {"model": "org/base", "remote": {"url": "http://169.254.169.254/v1"}}},
    "a key of ours sent away": {
        "expert": {"model": "m", "remote": {"url": "http://x.example", "key_env": "REDIS_URL"}}
    },
    "dedicated": {"expert": {"model": "org/base", "dedicated": {}}},
    "a model outside": {"expert": {"model": "/etc"}},
    "an adapter outside": {"expert": {"model": "org/base", "adapter": "../../etc"}},
    "an adapter at home": {"expert": {"model": "org/base", "adapter": "~root"}},
    "another name": {"expert": {"name": "adder", "model": "org/base", "adapter": "/etc"}},
    "unknown fields": {"expert": {"model": "org/base", "more": 1}},
    "a bad record": {**GOOD, "record": {"overall": "all", "skills": []}},
    "a record of numbers": {**GOOD, "record": {"overall": [1e308, -1], "skills": {"sums": [True, {}]}}},
    "a list of states": {"state": ["active"]},
    "a time that is text": {"state": "quarantined", "since": "now", "until": "later"},
    "a time without end": b'{"state": "quarantined", "since": Infinity, "until": NaN}',
    "a reason that is none": {"state": "quarantined", "why": {"a": 1}},
    "no JSON": b"\xff\xfe",
    "deep JSON": b'{"expert": ' + b"[" * 100_000,
    "null": b"null",
    "a huge row": {"why": "x" * STANDING_ROW_BYTES},
}


class Rows:
    """What a store holds, for whoever asks it for everything."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self.rows = dict(rows)

    async def hgetall(self, table: str) -> dict[bytes, bytes]:
        return self.rows

    async def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await work(self)


def row(content: Mapping[str, Any] | bytes) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")  # there is one; it is not asked
    return read_pool(str(echo_pool(tmp_path)))


def read(pool: Pool, rows: Mapping[bytes, bytes]) -> Lifecycle:
    async def reading() -> Lifecycle:
        lifecycle = Lifecycle(pool, Moody(), Settings(), Rows(rows))
        await lifecycle._keeper.look()
        return lifecycle

    return asyncio.run(reading())


@pytest.mark.parametrize("name", BAD)
def test_what_could_not_join_through_the_api_does_not_join_through_the_store(
    pool: Pool, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.WARNING):
        lifecycle = read(pool, {b"poet": row(GOOD), b"intruder": row(BAD[name])})
    assert lifecycle.roster.pool.names == (*pool.names, "poet")
    assert "intruder" not in lifecycle.roster.standings
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'intruder' is passed over" in line
    assert len(line) < 400


def test_a_bad_row_about_an_expert_of_the_pool_changes_nothing(pool: Pool) -> None:
    lifecycle = read(pool, {b"adder": row(BAD["a time that is text"]), b"\xff": row(GOOD)})
    assert lifecycle.roster.state("adder") == "active"
    assert lifecycle.roster.pool.names == pool.names


def test_the_store_cannot_make_more_experts_than_a_pool_may_have(pool: Pool) -> None:
    lifecycle = read(pool, {f"poet-{n:04}".encode(): row(GOOD) for n in range(EXPERTS + 5)})
    assert len(lifecycle.roster.pool.experts) == EXPERTS


def test_it_is_said_once_and_looked_at_once(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows({b"intruder": row(BAD["remote code"])})

    async def looking() -> None:
        lifecycle = Lifecycle(pool, Moody(), Settings(), rows)
        for _ in range(3):
            await lifecycle._keeper.look()

    asyncio.run(looking())
    assert len(caplog.records) == 1


def test_a_running_service_answers_and_is_measured_whatever_the_store_says(tmp_path: Path, state: Path) -> None:
    import redis

    open_store().ping()
    with redis.Redis.from_url(store_url()) as client:
        table = "symmoe:experts:echoes"
        client.hset(table, mapping={name: row(content) for name, content in BAD.items()})
        client.hset(table, "adder", row(BAD["a list of states"]))
        client.hset(table, "poet", row(GOOD))
        with running(tmp_path, Settings(), remembers=True) as served:
            until(lambda: served.service.lifecycle.roster.known)
            assert set(served.service.lifecycle.roster.pool.names) - {"poet"} == {
                "adder",
                "speaker",
                "sorter",
                "broken",
            }
            assert served.get("/metrics").status_code == 200
            assert served.metric('symmoe_expert_state{expert="poet",state="active"}') == 1
            assert served.get("/v1/models").status_code == 200
