from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from symmoe.errors import StoreError
from symmoe.store import RedisStore, embedded_socket, open_store, stop_embedded
from tests.stores import own_state


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisStore]:
    """One server for the tests that need no state directory of their own; each uses a table of its own."""
    with own_state(tmp_path_factory.mktemp("shared")):
        yield open_store()


def test_the_first_write_of_a_row_wins(shared: RedisStore) -> None:
    shared.put("first", {"a": {"n": 1}})
    shared.put("first", {"a": {"n": 2}, "b": {"n": 3}})
    assert shared.rows("first") == {"a": {"n": 1}, "b": {"n": 3}}


def test_rows_of_one_table_are_not_seen_in_another(shared: RedisStore) -> None:
    shared.put("one", {"a": {"n": 1}})
    assert shared.rows("other") == {}


def test_every_row_of_a_large_table_comes_back(shared: RedisStore) -> None:
    rows = {f"row {number}": {"n": number, "text": "größer ☃"} for number in range(3000)}
    shared.put("large", rows)
    assert shared.rows("large") == rows


def test_a_dropped_table_is_empty_and_the_others_stay(shared: RedisStore) -> None:
    for table in ("a", "b", "c"):
        shared.put(table, {"row": {"in": table}})
    shared.drop(["a", "b"])
    shared.drop([])
    assert [shared.rows(table) for table in ("a", "b", "c")] == [{}, {}, {"row": {"in": "c"}}]


def test_two_openers_share_one_server(state: Path) -> None:
    first, second = open_store(), open_store()
    first.put("t", {"a": {"n": 1}})
    assert second.rows("t") == {"a": {"n": 1}}
    assert set(second.ping()) == {"server", "version"}


def test_the_server_survives_the_kill_of_the_process_that_started_it(state: Path) -> None:
    code = (
        "from symmoe.store import open_store; open_store().put('t', {'a': {'n': 1}}); print('put', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as opener:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "put\n"
        opener.send_signal(signal.SIGKILL)
    assert opener.returncode == -signal.SIGKILL
    client = redis.Redis(unix_socket_path=str(state / "valkey.sock"))
    assert RedisStore(client).rows("t") == {"a": {"n": 1}}


def test_rows_are_still_there_after_the_server_was_stopped_and_started_again(state: Path) -> None:
    open_store().put("t", {"a": {"n": 1}})
    assert stop_embedded()
    assert open_store().rows("t") == {"a": {"n": 1}}


def test_stopping_says_whether_a_server_was_running(state: Path) -> None:
    assert not stop_embedded()
    open_store()
    assert stop_embedded()
    assert not stop_embedded()


def test_a_server_killed_outright_is_replaced_and_its_rows_are_kept(state: Path) -> None:
    store = open_store()
    store.put("t", {"a": {"n": 1}})
    client = redis.Redis(unix_socket_path=str(state / "valkey.sock"))
    client.config_set("appendfsync", "always")
    store.put("t", {"b": {"n": 2}})
    os.kill(client.info("server")["process_id"], signal.SIGKILL)
    assert open_store().rows("t") == {"a": {"n": 1}, "b": {"n": 2}}


def test_a_state_directory_too_long_for_a_socket_works_and_keeps_its_data_there(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = state / ("long" * 40)
    monkeypatch.setenv("SYMMOE_STATE", str(long))
    open_store().put("t", {"a": {"n": 1}})
    try:
        assert open_store().rows("t") == {"a": {"n": 1}}
        assert len(os.fsencode(embedded_socket())) < 100
        assert (long / "appendonlydir").is_dir()
    finally:
        assert stop_embedded()
        embedded_socket().parent.rmdir()


def test_nobody_but_the_user_may_enter_the_state_directory(state: Path) -> None:
    open_store()
    assert state.stat().st_mode & 0o077 == 0
    assert embedded_socket().stat().st_mode & 0o077 == 0


def test_a_server_that_does_not_answer_is_a_store_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
    with pytest.raises(StoreError, match="does not answer") as caught:
        open_store()
    assert "REDIS_URL" in (caught.value.hint or "")


def test_a_url_that_is_no_redis_url_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")
    with pytest.raises(StoreError, match="REDIS_URL cannot be used"):
        open_store()


def test_redis_url_is_used_in_place_of_the_embedded_server(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store()
    monkeypatch.setenv("REDIS_URL", f"unix://{state / 'valkey.sock'}?db=3")
    open_store().put("t", {"a": {"n": 1}})
    monkeypatch.delenv("REDIS_URL")
    assert open_store().rows("t") == {}
    assert redis.Redis(unix_socket_path=str(state / "valkey.sock"), db=3).hkeys("symmoe:t") == [b"a"]
