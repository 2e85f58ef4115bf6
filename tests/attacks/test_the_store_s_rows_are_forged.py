"""Who can write to the store gets no code run, no file read and no URL asked by it, and stops nothing."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from symmoe.deployments.access.keys import KeyRecord, StoredKeys, add, digest, everyone, new_id, new_key
from symmoe.deployments.lifecycle.lifecycle import Keeper
from symmoe.deployments.lifecycle.roster import Roster
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import Pool, read_pool
from tests.conftest import echo_pool
from tests.deployments.api.conftest import running
from tests.stores import connected

GOOD = {"model": "org/base", "adapter": "./poet"}
FORGED: dict[bytes, Any] = {
    b"code": {"expert": {**GOOD, "trust_remote_code": True}},
    b"remote": {"expert": {"model": "org/base", "remote": {"url": "http://169.254.169.254/v1"}}},
    b"dedicated": {"expert": {"model": "org/base", "dedicated": {"replicas": 200}}},
    b"above": {"expert": {"model": "org/base", "adapter": "../../etc"}},
    b"root": {"expert": {"model": "/etc", "adapter": "./poet"}},
    b"null": {"expert": {"model": "org/base", "adapter": "./a\0b"}},
    b"since": {"since": "yesterday", "expert": GOOD},
    b"until": {"until": {}, "expert": GOOD},
    b"endless": b'{"until": NaN, "expert": {"model": "org/base"}}',
    b"why": {"why": ["x"], "expert": GOOD},
    b"list": {"expert": ["org/base"]},
    b"record": {"expert": GOOD, "record": {"overall": "many", "skills": 3}},
    b"record2": {"expert": GOOD, "record": {"overall": [1, 0], "skills": {"sums": [None, {}]}}},
    b"na/me": {"expert": GOOD},
    b"\xff\xfe": {"expert": GOOD},
    b"x" * 5000: {"expert": GOOD},
    b"adder": {"state": "active", "until": "soon"},
    b"speaker": b"\xff not json",
}


def forge(pool: Pool) -> None:
    store = connected()
    for name, row in {**FORGED, b"poet": {"expert": GOOD}}.items():
        store.hset(f"symmoe:experts:{pool.name}", name, row if isinstance(row, bytes) else json.dumps(row))


def test_only_what_could_have_been_sent_joins(state: Path, tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path / "pool")))
    forge(pool)

    async def read() -> Roster:
        roster, storage = Roster(pool, known=False), Storage()
        await Keeper(roster, pool.name, storage).look()
        await storage.close()
        return roster

    roster = asyncio.run(read())
    assert set(roster.pool.names) == {*pool.names, "poet"}
    assert not any(expert.trust_remote_code or expert.remote or expert.dedicated for expert in roster.pool.experts)
    assert {roster.state(name) for name in roster.pool.names} == {"active"}
    for name in FORGED:
        assert roster.newcomer(name.decode(errors="replace")) is None


def test_no_more_join_than_a_pool_may_have(state: Path, tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path / "pool")))
    rows = {f"e{number}": json.dumps({"expert": GOOD}) for number in range(1000)}
    connected().hset(f"symmoe:experts:{pool.name}", mapping=rows)  # type: ignore[arg-type]

    async def read() -> Roster:
        roster, storage = Roster(pool, known=False), Storage()
        await Keeper(roster, pool.name, storage).look()
        await storage.close()
        return roster

    assert len(asyncio.run(read()).pool.experts) == 256


def test_a_service_goes_on_and_tells_its_metrics(state: Path, tmp_path: Path) -> None:
    forge(read_pool(str(echo_pool(tmp_path / "pool"))))
    with running(tmp_path / "pool", Settings(), remembers=True) as served:
        served.until('symmoe_expert_state{expert="adder",state="active"}', 1.0)
        assert served.get("/metrics").status_code == 200
        assert served.get("/v1/models").status_code == 200
        assert served.post(json={"model": "adder", "messages": [{"role": "user", "content": "sums"}]}).is_success
        assert not any(name.decode(errors="replace") in served.get("/v1/models").text for name in (b"code", b"remote"))


def test_rows_that_are_no_keys_open_nothing_and_stop_nobody(state: Path) -> None:
    key, record = new_key(), KeyRecord(new_id(), "team", time.time())
    bad = new_key(), new_key(), new_key(), new_key()
    whole = {"id": "key-x", "name": "x", "created": 1.0}
    forged = [b"\xff", b"[]", json.dumps({**whole, "expires": "never"}), json.dumps({**whole, "more": True})]

    async def asking() -> list[bool]:
        storage = Storage()
        await add(storage, key, record)
        for each, row in zip(bad, forged, strict=True):
            connected().hset("symmoe:keys", digest(each), row)
        connected().hset("symmoe:keys", b"\xff\xfe", b"{}")
        known = StoredKeys(storage)
        assert [each.id for each in await everyone(storage)] == [record.id]
        assert await known.named(record.id) is not None
        found = [await known.caller(each) is not None for each in (key, *bad)]
        await storage.close()
        return found

    assert asyncio.run(asking()) == [True, False, False, False, False]
