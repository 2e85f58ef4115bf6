"""No piece of REDIS_URL, which may hold a password, is in any error."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from symmoe.deployments.storage import Storage

from symmoe.doctor import examine
from symmoe.errors import StoreError
from symmoe.store import open_store

_TOLD = r"REDIS_URL cannot be used|the store does not answer"
URLS = [
    "http://swordfish@localhost",
    "redis://:swordfish",
    "redis://:swordfish@127.0.0.1:1/0",
    "redis://user:1/swordfish@127.0.0.1/0",
    "redis://user:#swordfish@127.0.0.1/0",
    "redis://swordfish?@127.0.0.1",
    "redis://127.0.0.1:swordfish",
    "redis://127.0.0.1:1?db=swordfish",
    "redis://127.0.0.1:1?swordfish=1",
    "redis://127.0.0.1:1?socket_timeout=swordfish",
    f"redis://{'swordfish' * 9}/0",
    "redis://swordfish.invalid/0",
    "unix:///swordfish/none",
    "rediss://:swordfish@127.0.0.1:1/0",
]


@pytest.mark.parametrize("url", URLS)
def test_no_word_of_it_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(StoreError, match=_TOLD) as caught:
        open_store()
    with pytest.raises(StoreError, match=_TOLD) as served:
        asyncio.run(Storage().do(lambda client: client.ping()))
    for error in (caught.value, served.value):
        told = "".join(traceback.format_exception(error, chain=not error.__suppress_context__))
        assert "swordfish" not in f"{error} {error.hint} {told.replace(url, '')}"
    store = next(finding for finding in examine() if finding.what == "store")
    assert "swordfish" not in f"{store.found} {store.advice}"
