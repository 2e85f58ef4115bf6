"""The store: data that outlives a process, over the Redis protocol.

`REDIS_URL` names a server. Without it an embedded Valkey server is started on a unix socket in the state directory,
with its append-only file on; it outlives the command that started it and is shared by later ones.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from symmoe.config import state_dir
from symmoe.errors import StoreError, StoreRefusedError
from symmoe.limits import STORE_ANSWER_SECONDS, STORE_DISK_MS, STORE_START_SECONDS

from .embedded import Damage, damages, embedded_socket, running_server, stop_embedded

if TYPE_CHECKING:
    import redis

__all__ = [
    "Damage",
    "RedisStore",
    "damages",
    "embedded_socket",
    "in_file",
    "on_disk",
    "open_store",
    "running_server",
    "stop_embedded",
    "store_error",
    "store_url",
    "unusable",
]

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
_CHUNK = 512
_LOOKS = 5
_PAUSE = 0.002


class RedisStore:
    """Tables of JSON rows in Redis hashes under `symmoe:`. A row's first write wins: repeating it changes nothing.

    After a lost connection, `again` is called before the request is repeated once. All methods may raise `StoreError`.
    """

    def __init__(self, client: redis.Redis, again: Callable[[], object] | None = None) -> None:
        self._client, self._again = client, again

    def put(self, table: str, rows: Mapping[str, dict[str, Any]]) -> None:
        """Write rows; a row written twice keeps its first value. They are durable when this returns."""

        def work() -> None:
            pipe = self._client.pipeline(transaction=False)
            for key, row in rows.items():
                pipe.hsetnx(f"symmoe:{table}", key, json.dumps(row))
            pipe.execute()
            self._settle()

        self._do(work)

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Every row of a table. One that is no JSON object is damaged: it is left out, and logged."""

        def work() -> dict[bytes, bytes]:
            return dict(self._client.hscan_iter(f"symmoe:{table}", count=_CHUNK))

        parsed = {key.decode(): _parse(row) for key, row in self._do(work).items()}
        rows = {key: row for key, row in parsed.items() if row is not None}
        if len(rows) < len(parsed):
            _LOG.warning("%d rows of the store's table %s are damaged and left out", len(parsed) - len(rows), table)
        return rows

    def remove(self, table: str, keys: Iterable[str]) -> None:
        """Remove rows of a table, if present."""
        if names := list(keys):
            self._do(lambda: self._client.hdel(f"symmoe:{table}", *names))
            self._do(self._settle)

    def drop(self, tables: Iterable[str]) -> None:
        """Remove tables."""
        if names := [f"symmoe:{table}" for table in tables]:
            self._do(lambda: self._client.delete(*names))
            self._do(self._settle)

    def ping(self) -> dict[str, Any]:
        """Name and version of the server. Raises `StoreError` if it does not answer."""
        info = self._do(lambda: self._client.info("server"))
        return {
            "server": info.get("server_name", "redis"),
            "version": info.get("valkey_version") or info.get("redis_version", ""),
        }

    def used_bytes(self) -> int:
        """Bytes of memory that the server uses."""
        return int(self._do(lambda: self._client.info("memory"))["used_memory"])

    def check(self) -> None:
        """Raise `StoreError` if the server does not answer, or cannot write to its disk."""
        in_file(self._do(lambda: self._client.info("persistence")))

    def _do(self, work: Callable[[], Result]) -> Result:
        from redis import exceptions

        try:
            try:
                return work()
            except exceptions.ConnectionError:
                if self._again is None:
                    raise
                self._again()
                return work()
        except (exceptions.RedisError, OSError, UnicodeError) as error:
            raise store_error(error) from None

    def _settle(self) -> None:
        """Wait until what was written is in the server's file: it goes there before the answer, but for a slow disk."""
        from redis import exceptions

        try:
            for _ in range(_LOOKS):
                if in_file(self._client.info("persistence")):
                    return
                time.sleep(_PAUSE)
            waited: Any = self._client.waitaof(1, 0, STORE_DISK_MS)
            on_disk(waited)
        except exceptions.ResponseError:  # a server that keeps no such file, or does not tell
            return


def _parse(row: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(row)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def in_file(facts: Mapping[str, Any]) -> bool:
    """Whether everything that a server was sent before is in its append-only file, judged by its `INFO persistence`.

    True for a server without such a file. Raises `StoreError` where it cannot write.
    """
    if not facts.get("aof_enabled"):
        return True
    if facts.get("aof_last_write_status", "ok") != "ok":
        raise _full()
    return not facts.get("aof_buffer_length")


def on_disk(synced: Any) -> None:
    """Check the reply to `WAITAOF`. Raises `StoreError` if the server's disk did not confirm the write in time."""
    if isinstance(synced, list) and synced and not synced[0]:
        raise StoreError(
            "what was written is not on the store's disk yet", hint="its disk is full or slow: make room, and ask again"
        )


def open_store() -> RedisStore:
    """Connect to `REDIS_URL`, or to the embedded server, starting it if it is not running."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    url = os.environ.get("REDIS_URL")
    if url:
        try:
            pool = redis.ConnectionPool.from_url(url, socket_connect_timeout=2)
            pool.make_connection()
        except (TypeError, ValueError):  # their words would hold pieces of it, and it may hold a password
            raise unusable() from None
        store = RedisStore(redis.Redis(connection_pool=pool))
        store.ping()
        return store
    path = str(running_server())
    client = redis.Redis(unix_socket_path=path, socket_timeout=STORE_ANSWER_SECONDS, retry=Retry(NoBackoff(), 0))
    return RedisStore(client, running_server)


def store_url(patience: float = STORE_START_SECONDS) -> str:
    """The URL of the store: `REDIS_URL`, or the embedded server's, which is started if none is running.

    Blocks for at most `patience` seconds. Raises `StoreError`.
    """
    return os.environ.get("REDIS_URL") or f"unix://{running_server(patience)}"


def store_error(error: Exception) -> StoreError:
    """The error for a client's exception, without the server's address and the words that were sent."""
    from redis import exceptions

    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return StoreError("the store does not answer in time", hint="it is busy or stopped; `symmoe doctor` says more")
    if isinstance(error, exceptions.ResponseError):
        code = str(error).partition(" ")[0]
        if code == "MISCONF":
            return _full(StoreRefusedError)
        if isinstance(error, exceptions.OutOfMemoryError):
            return StoreRefusedError(
                "the store's memory is full: it takes nothing new", hint="delete files, batches or jobs"
            )
        return StoreRefusedError(f"the store refused: {code if code.isupper() else 'an error'}", hint=_HINT)
    return StoreError(f"the store does not answer: {_reason(error)}", hint=_HINT)


_HINT = "check REDIS_URL; `symmoe doctor` says more"


def _reason(error: BaseException) -> str:
    """Why there is no connection; the words of errors name the server, so only their kind and number are told."""
    at: BaseException | None = error
    while at is not None and not (isinstance(at, OSError) and at.errno):
        at = at.__cause__ or at.__context__
    if isinstance(at, OSError) and at.errno:
        return os.strerror(at.errno).lower() if at.errno > 0 else "its name is not known"
    return type(error).__name__


def _full(kind: type[StoreError] = StoreError) -> StoreError:
    where = "of the server in REDIS_URL" if os.environ.get("REDIS_URL") else f"of {state_dir()}"
    return kind(
        f"the store cannot write: its disk refuses ({where[3:]})",
        hint=f"make room on the disk {where}: it goes on by itself, and reads go on meanwhile",
    )


def unusable() -> StoreError:
    """The error for an invalid `REDIS_URL`; it repeats no part of it, which might be a password."""
    return StoreError("REDIS_URL cannot be used", hint="write redis://HOST:PORT/DB")
