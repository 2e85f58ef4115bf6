"""Whatever happens to the store, there is one server, no acknowledged row is lost and a revoked key is refused."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from symmoe.cli.key import with_store
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import KeyRecord, StoredKeys, add, new_id, new_key, revoke
from symmoe.deployments.storage import Storage

from symmoe.doctor import examine
from symmoe.errors import StoreError
from symmoe.limits import STORE_START_SECONDS
from symmoe.store import RedisStore, open_store, running_server

from .conftest import eventually, servers

_WRITERS = 3
_OPENER = """
import sys
from symmoe.store import open_store
open_store().put("t", {sys.argv[1]: {"by": sys.argv[1]}})
print("written")
"""


class Siege:
    """One store and what it has acknowledged."""

    def __init__(self, state: Path, seed: int, stall: float) -> None:
        self._state, self._random, self._stall = state, random.Random(seed), stall
        self._rows: dict[str, dict[str, str]] = {}
        self._number = 0
        self._runner, self._storage = asyncio.Runner(), Storage()
        self._known = StoredKeys(Breaker(self._storage))
        self._revoked: list[str] = []
        self._kinds: dict[str, Callable[[], None]] = {
            "stopped": self._stopped,
            "filled": self._filled,
            "killed": self._killed,
            "twice": self._twice,
        }

    def close(self) -> None:
        self._runner.run(self._storage.close())
        self._runner.close()

    def attack(self, kind: str) -> None:
        """One attack, and what must hold after it."""
        self._put(open_store(), 200)
        key, record = new_key(), KeyRecord(new_id(), "team", time.time())
        with_store(lambda storage: add(storage, key, record))
        assert self._accepted(key)
        assert with_store(lambda storage: revoke(storage, record.id, time.time())) is not None
        revoked_at = time.monotonic()
        self._kinds[kind]()
        self._revoked.append(key)
        assert self._lost(open_store()) == []
        assert len(servers(self._state)) == 1
        eventually(lambda: time.monotonic() - revoked_at > 1.0)
        assert not any(self._accepted(key) for key in self._revoked)

    def _stopped(self) -> None:
        (server,) = servers(self._state)
        server.suspend()
        ends = time.monotonic() + self._stall
        with self._writing() as failed, self._another("writer") as other:
            with pytest.raises(StoreError):
                running_server(patience=0.2)
            while time.monotonic() < ends:
                assert len(servers(self._state)) == 1
                time.sleep(0.1)
            server.resume()
            ended = other.wait(60)
        if self._stall < STORE_START_SECONDS:
            assert (ended, failed) == (0, [])
        assert all("does not answer" in str(error) for error in failed)

    def _filled(self) -> None:
        filler = self._state.parent / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                self._fill(file.fileno())
            store = open_store()
            with pytest.raises(StoreError, match="disk") as caught:
                self._put_until_it_is_full(store)
            assert str(self._state) in (caught.value.hint or "")
            assert self._lost(store) == []
            found = next(each for each in examine() if each.what == "store")
            assert (found.level, found.advice) == ("missing", caught.value.hint)
            if self._random.random() < 0.5:
                servers(self._state)[0].kill()
            assert self._lost(open_store()) == []
        finally:
            filler.unlink()
        eventually(lambda: self._put_if_it_takes_it(open_store()))

    def _killed(self) -> None:
        with self._writing():
            time.sleep(self._random.uniform(0, 0.3))
            for server in servers(self._state):
                server.kill()

    def _twice(self) -> None:
        for server in servers(self._state):
            server.kill()
        with self._another("one") as one, self._another("other") as other:
            assert one.wait(60) == other.wait(60) == 0

    @contextmanager
    def _another(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another command that opens the store and writes."""
        row = f"{name} {self._next()}"
        with subprocess.Popen([sys.executable, "-c", _OPENER, row], stdout=subprocess.DEVNULL) as process:
            try:
                yield process
                process.wait(60)
            finally:
                process.kill()
        if process.returncode == 0:
            self._rows[row] = {"by": row}

    @contextmanager
    def _writing(self) -> Iterator[list[StoreError]]:
        """Others write meanwhile, each for itself; what was not acknowledged to them does not count."""
        failed: list[StoreError] = []
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                try:
                    self._put(open_store(), 5)
                except StoreError as error:
                    failed.append(error)

        with ThreadPoolExecutor(_WRITERS) as pool:
            done = [pool.submit(write) for _ in range(_WRITERS)]
            try:
                yield failed
            finally:
                over.set()
            for each in done:
                each.result()

    def _put(self, store: RedisStore, count: int, text: str = "x") -> None:
        rows = {f"row {self._next()}": {"text": text} for _ in range(count)}
        store.put("t", rows)
        self._rows.update(rows)

    def _put_until_it_is_full(self, store: RedisStore) -> None:
        for _ in range(2000):
            self._put(store, 1, "x" * 4000)

    def _put_if_it_takes_it(self, store: RedisStore) -> bool:
        try:
            self._put(store, 1)
        except StoreError:
            return False
        return True

    def _lost(self, store: RedisStore) -> list[str]:
        there = store.rows("t")
        return [key for key, row in dict(self._rows).items() if there.get(key) != row]

    def _accepted(self, key: str) -> bool:
        try:
            return self._runner.run(self._known.caller(key)) is not None
        except StoreError:
            return False

    def _next(self) -> int:
        self._number += 1
        return self._number * 1_000_000 + threading.get_ident() % 1_000_000

    def _fill(self, number: int) -> None:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    os.write(number, b"\0" * size)
            except OSError:
                continue


@contextmanager
def besieged(state: Path, seed: int, stall: float) -> Iterator[Siege]:
    siege = Siege(state, seed, stall)
    try:
        yield siege
    finally:
        for server in servers(state):
            server.send_signal(signal.SIGCONT)
        siege.close()


def test_once_each(small_disk: Path) -> None:
    with besieged(small_disk, seed=23, stall=1.0) as siege:
        for kind in ("killed", "filled", "stopped", "twice"):
            siege.attack(kind)


@pytest.mark.slow
def test_twenty_times_each_at_random_stopped_for_half_a_minute(small_disk: Path) -> None:
    kinds = ["stopped", "filled", "killed", "twice"] * 20
    random.Random(23).shuffle(kinds)
    with besieged(small_disk, seed=29, stall=30.0) as siege:
        for kind in kinds:
            siege.attack(kind)
