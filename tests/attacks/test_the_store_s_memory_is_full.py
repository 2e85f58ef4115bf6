"""A store that has no memory left takes nothing new, says so, forgets nothing, and still takes a key's rights away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from symmoe.cli.key import with_store
from symmoe.deployments.access.keys import KeyRecord, StoredKeys, add, new_id, new_key, revoke

from symmoe.errors import StoreError
from symmoe.limits import STORE_BYTES
from symmoe.store import open_store
from tests.stores import connected


def test_it_goes_on_reading_and_revoking(state: Path) -> None:
    store = open_store()
    assert connected().config_get("maxmemory") == {"maxmemory": str(STORE_BYTES)}
    key, record = new_key(), KeyRecord(new_id(), "team", time.time())
    with_store(lambda storage: add(storage, key, record))
    store.put("t", {"a": {"n": 1}})
    connected().config_set("maxmemory", 1)
    with pytest.raises(StoreError, match="memory is full"):
        store.put("t", {"b": {"n": 2}})
    with pytest.raises(StoreError, match="memory is full"):
        with_store(lambda storage: add(storage, new_key(), KeyRecord(new_id(), "more", time.time())))
    assert store.rows("t") == {"a": {"n": 1}}
    assert with_store(lambda storage: StoredKeys(storage).caller(key)) is not None
    assert with_store(lambda storage: revoke(storage, record.id, time.time())) is not None
    assert with_store(lambda storage: StoredKeys(storage).caller(key)) is None
    store.drop(["t"])
    connected().config_set("maxmemory", STORE_BYTES)
    store.put("t", {"b": {"n": 2}})
    assert open_store().rows("t") == {"b": {"n": 2}}
