"""Mending the append-only files of a store that was torn: whole commands stay, what lies between them is cut out.

A command in such a file is `*COUNT`, then for each of its words `$LENGTH` and the word, every part ended by a line
break. Behind damage, reading goes on at the next place that a command may begin at, which is the beginning of a line.
Words of symmoe's rows are JSON and hold no line breaks, so none of them can pass for a command.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from symmoe.limits import STORE_KEPT
from symmoe.private import private_folder, private_opener

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

    `kept` is where the whole damaged file lies, or, where only its end was torn, that end.
    """

    file: str
    offset: int
    lost: int
    kept: str
    when: float

    def __str__(self) -> str:
        return f"{self.lost} bytes of the store were damaged and are lost, the first at {self.offset} of {self.file}"


def mend(state: Path) -> list[Damage]:
    """Mend the files of a store that no server runs on; what was lost is also logged. Raises `OSError`."""
    folder = state / "appendonlydir"
    try:
        manifest = (folder / "appendonly.aof.manifest").read_text(encoding="utf-8")
    except OSError:
        return []
    files = [folder / Path(name).name for name in _INCREMENTAL.findall(manifest)]
    found = [damage for file in files if file.exists() and (damage := _mend(file, state / _FOLDER)) is not None]
    for damage in found:
        _LOG.warning("%s; what was there is kept in %s", damage, damage.kept)
    return found


def damages(state: Path) -> list[Damage]:
    """What was ever found damaged, as far as its folder is still there, oldest first."""
    try:
        rows = (state / _FOLDER / _FOUND).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Damage(**json.loads(row)) for row in rows]


def good_parts(data: bytes | mmap.mmap) -> list[Part]:
    """The parts that are whole commands; a transaction counts as one, and is lost with any command of it."""
    parts: list[Part] = []
    for start, end in _whole(data):
        if parts and parts[-1][1] == start:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    return parts


def _whole(data: bytes | mmap.mmap) -> Iterator[Part]:
    position, begun = 0, None  # where a transaction has begun that is not over
    while position < len(data):
        end, word = _command(data, position)
        if end is None:
            begun = None
            match = _NEXT.search(data, position)
            if match is None:
                return
            position = match.end()
            continue
        if word == b"MULTI":
            begun = position
        elif word == b"EXEC":
            if begun is not None:
                yield begun, end
            begun = None
        elif begun is None:
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
        kept = private_folder(folder) / f"{file.name}.{time.time_ns()}"
        if parts in ([], [(0, offset)]):  # only its end is torn: that takes no room to mend
            _write(kept, data, [(offset, size)])
            os.truncate(file, offset)
        else:
            mended = file.with_name(f"{file.name}.mended")
            _write(mended, data, parts)
            os.link(file, kept)
            os.replace(mended, file)
    _sync(file)
    _sync(file.parent)
    lost = size - sum(end - start for start, end in parts)
    damage = Damage(file.name, offset, lost, str(kept), time.time())
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


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
