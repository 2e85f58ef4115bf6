"""What a job keeps beside its output, in a folder `.OUTPUT.job`, so that it can be resumed after any interruption.

    lines       32 bytes for each line that was answered or refused: its digest, the hash of its id, the outcome, its
                number
    commits     a JSON object for each window: how much of `lines`, output, traces and errors is final
    candidates  what experts answered in the windows under way, a JSON array each
    status      the job's status, for other processes
    before-N    the files of a run with another input, as long as its rows are reused

A window's rows are on the disk (fsync) before its commit, and that before its candidates are dropped. A candidate is
handed to the operating system before anybody sees it, and is on the disk within `SYNC_SECONDS`: if the process ends,
those that came just after others are lost, if the machine does, the last few. Anything behind the last commit, whole
or torn, is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import filterfalse
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import SchemaSerializer, from_json
from xxhash import xxh3_64_intdigest

from symmoe.batch.lines import KnownLine
from symmoe.batch.output import START, Mark
from symmoe.errors import JobError
from symmoe.private import private_folder, private_opener
from symmoe.types import Candidate

SYNC_SECONDS = 1.0
STATUS_SECONDS = 1.0
PIPED = "stdin"
"""What the names of files begin with that hold what came through a pipe."""
_LINE = struct.Struct("<16sQHBxI")
_DTYPE = np.dtype({"names": ["key", "id", "traces", "answered"], "formats": ["<u8", "<u8", "<u2", "u1"],
                   "offsets": [0, 16, 24, 26], "itemsize": _LINE.size})  # fmt: skip
_AT_ONCE = 1024
_EXAMPLE = 300
_CAUSES = 64
_PART = "candidates.part"
_DROPPED_BYTES = 64 << 20
"""Candidates whose rows are written are removed once the file is larger than this and more than half of it is such."""


@dataclass(slots=True)
class Cause:
    """Why lines failed: how many, and the number and message of one of them."""

    count: int = 0
    line: int = 0
    message: str = ""


@dataclass(slots=True)
class Commit:
    """The durable progress of a job. `causes` are by code, `ignored` counts fields without effect."""

    lines: int = 0
    output: Mark = START
    trace: Mark = START
    errors: Mark = START
    answered: int = 0
    failed: int = 0
    finished: bool = False
    causes: dict[str, Cause] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)

    def fails(self, code: str, line: int, message: str) -> None:
        """Count one more failed line."""
        self.failed += 1
        code = code if code in self.causes or len(self.causes) < _CAUSES else "other"
        cause = self.causes.setdefault(code, Cause(0, line, message[:_EXAMPLE]))
        cause.count += 1

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Commit:
        """The commit that `asdict` gave."""
        marks = {name: Mark(**row[name]) for name in ("output", "trace", "errors")}
        return cls(**{**row, **marks, "causes": {code: Cause(**cause) for code, cause in row["causes"].items()}})


@dataclass(frozen=True, slots=True)
class Files:
    """The output of a job, and the files beside it."""

    output: Path

    @property
    def trace(self) -> Path:
        """The file of traces."""
        return self._beside("trace")

    @property
    def errors(self) -> Path:
        """The file of failed lines."""
        return self._beside("errors")

    @property
    def folder(self) -> Path:
        """The folder from which the job can be resumed."""
        return self.output.with_name(f".{self.output.name}.job")

    @property
    def rows(self) -> tuple[Path, Path, Path]:
        """The files that grow with the job's rows."""
        return self.output, self.trace, self.errors

    def _beside(self, what: str) -> Path:
        """`a.trace.jsonl` of `a.jsonl`, `a.csv.trace.jsonl` of `a.csv`: both may be there."""
        stem = self.output.stem if self.output.suffix == ".jsonl" else self.output.name
        return self.output.with_name(f"{stem}.{what}.jsonl")


class Record:
    """A job's folder, held by one process."""

    def __init__(self, files: Files) -> None:
        self._files, self._folder = files, files.folder
        self.commit = Commit()
        self._lines: IO[bytes] | None = None
        self._commits: IO[bytes] | None = None
        self._taken: list[Before] | None = None

    def settings(self) -> dict[str, Any] | None:
        """The settings that the job began with; None where there is no job."""
        self._finish_putting_aside()
        commits = _objects(self._folder / "commits")
        return commits[0] if commits else None

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin anew: earlier records of the job are removed, and an earlier output is kept as `OUTPUT.before`.

        Where rows were put aside, the output that is kept is that of the run with the most lines.
        """
        self._finish_putting_aside()
        runs = {
            self._files.output.parent: _lines_in(self._folder),
            **{each: _lines_in(each) for each in self._before()},
        }
        fullest = max(runs, key=lambda folder: runs[folder])
        for path in self._files.rows:
            if (fullest / path.name).exists():
                before = path.with_name(f"{path.name}.before")
                _remove(before)
                (fullest / path.name).replace(before)
            _remove(path)
        for each in (*self._before(), self._folder):
            _remove(each)
        self._open(settings)

    def resume(self) -> None:
        """Continue after the last commit."""
        settings, *commits = _objects(self._folder / "commits")
        self.commit = Commit.from_json(commits[-1]) if commits else Commit()
        self._open(settings, 1 + len(commits))

    def put_aside(self) -> None:
        """Begin the rows anew under the same settings, keeping the present ones as a source."""
        settings = self.settings() or {}
        self.close()
        target = self._folder / f"before-{len(self._before())}"
        target.with_suffix(".part").mkdir()
        self._finish_putting_aside()
        self.commit = Commit()
        self._open(settings)

    @property
    def put_aside_whole(self) -> bool:
        """Whether all rows are in runs that were put aside, so that no row of the present run is committed yet."""
        return bool(self._before()) and len(_objects(self._folder / "commits")) == 1

    def add(self, digest: bytes, hashed: int, traces: int, answered: bool, number: int) -> None:
        """Record one more written line."""
        assert self._lines is not None  # noqa: S101  (it is open between `start` or `resume` and `close`)
        self._lines.write(_LINE.pack(digest, hashed, traces, answered, number))
        self.commit.lines += 1

    def flush(self) -> bytes:
        """Make the added lines readable. Returns what `keep` writes: the commit as it is now."""
        assert self._lines is not None  # noqa: S101
        self._lines.flush()
        return json.dumps(asdict(self.commit)).encode() + b"\n"

    def keep(self, commit: bytes) -> None:
        """Commit: the lines, and the rows up to the marks in the commit, which are on the disk already, become final.

        No line is added meanwhile, but another thread may do this.
        """
        assert self._lines is not None  # noqa: S101
        assert self._commits is not None  # noqa: S101
        _sync(self._lines)
        self._commits.write(commit)
        _sync(self._commits)

    def before(self) -> list[Before]:
        """The earlier runs whose rows can be reused."""
        if self._taken is None:
            self._taken = [Before(folder, self._files) for folder in self._before()]
        return self._taken

    def written(self) -> Iterator[tuple[bytes, int]]:
        """The digest and the id's hash of each committed line."""
        return ((digest, hashed) for digest, hashed, *_ in self._written())

    def digests(self) -> NDArray[np.uint64]:
        """The first 64 bits of the digests of committed lines; of those with an id of their own: others repeat."""
        table = np.fromfile(self._folder / "lines", dtype=_DTYPE, count=self.commit.lines)
        keys: NDArray[np.uint64] = table["key"][table["id"] != 0]
        return keys

    def moved(self, numbers: Iterable[int]) -> bool:
        """Whether a committed line whose id is its number has another number now; `numbers` are today's, in order."""
        committed = ((hashed, before) for _, hashed, _, _, before in self._written())
        return any(
            before not in (0, now) and not hashed for (hashed, before), now in zip(committed, numbers, strict=False)
        )

    def _written(self) -> Iterator[tuple[Any, ...]]:
        left = self.commit.lines
        with (self._folder / "lines").open("rb") as file:
            while left > 0:
                block = file.read(min(left, _AT_ONCE) * _LINE.size)
                yield from _LINE.iter_unpack(block)
                left -= _AT_ONCE

    def finish(self) -> None:
        """Mark the job as done and remove what only resuming needs, except its lines."""
        self.commit.finished = True
        self.keep(self.flush())
        for each in (*self._before(), self._folder / "candidates", self._folder / _PART):
            _remove(each)

    def close(self) -> None:
        """Close the files."""
        for file in (self._lines, self._commits, *(self._taken or ())):
            if file is not None:
                file.close()
        self._lines = self._commits = self._taken = None

    def _open(self, settings: Mapping[str, Any], objects: int = 0) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lines = _cut(self._folder / "lines", self.commit.lines * _LINE.size)
        commits = self._folder / "commits"
        if not objects:
            commits.write_bytes(json.dumps(settings).encode() + b"\n")
        with commits.open("rb") as file:
            whole = sum(len(file.readline()) for _ in range(max(1, objects)))
        self._commits = _cut(commits, whole)
        _sync(self._commits)

    def _before(self) -> list[Path]:
        whole = (each for each in self._folder.glob("before-*") if not each.suffix)
        return sorted(whole, key=lambda each: int(each.name.partition("-")[2]))

    def _finish_putting_aside(self) -> None:
        """Move the rows of a run into a folder, whole however often it is interrupted: the folder's name says it is."""
        for part in self._folder.glob("before-*.part"):
            for path in (*self._files.rows, *(self._folder / name for name in ("lines", "commits"))):
                if path.exists() and not (part / path.name).exists():
                    path.replace(part / path.name)
            settings = _objects(part / "commits")[:1]
            (self._folder / "commits").write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in settings))
            part.rename(part.with_suffix(""))


class Before:
    """The answered rows of a run that was put aside, found by their lines' digests."""

    def __init__(self, folder: Path, files: Files) -> None:
        commit = Commit.from_json(_objects(folder / "commits")[-1])
        table = np.fromfile(folder / "lines", dtype=_DTYPE, count=commit.lines)
        self._first_trace = np.concatenate([[0], np.cumsum(table["traces"], dtype=np.int64)])
        rows = np.flatnonzero(table["answered"])
        self._order = rows[np.argsort(table["key"][rows], kind="stable")]
        self._keys, self._ids = table["key"][self._order], table["id"]
        self._output = _Lines(folder / files.output.name)
        self._traces = _Lines(folder / files.trace.name)

    def find(self, digest: bytes) -> tuple[int, int] | None:
        """The row and the id's hash of an answered line; None if it has none. Compares the digest's first 64 bits."""
        key = int.from_bytes(digest[:8], "little")
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place == len(self._keys) or int(self._keys[place]) != key:
            return None
        row = int(self._order[place])
        return row, int(self._ids[row])

    def texts(self, row: int) -> tuple[str, list[str]]:
        """A row of the output, and its traces."""
        first, end = int(self._first_trace[row]), int(self._first_trace[row + 1])
        return self._output[row], [self._traces[each] for each in range(first, end)]

    def close(self) -> None:
        """Close the files."""
        self._output.close()
        self._traces.close()


class Passing:
    """Finds, for an input's rows in order, those already answered: first in their places, then in earlier runs.

    `changed` is set once a row differs from the one written in its place. `hashes` are the hashes of the ids of rows
    passed over through `standing`, `numbers` the numbers of the other rows in their places.
    """

    def __init__(self, written: Iterable[tuple[bytes, int]] = (), before: Sequence[Before] = ()) -> None:
        self._written, self._before = iter(written), before
        self.changed, self.hashes, self.numbers = False, array("Q"), array("Q")

    def standing(self) -> Iterator[bytes]:
        """The digests of written rows, for a reader that skips unchanged rows in bulk."""
        for digest, hashed in self._written:
            self.hashes.append(hashed)
            yield digest

    def __call__(self, number: int, digest: bytes) -> KnownLine | None:
        """The line if it was answered before, or None."""
        earlier = next(self._written, None)
        if earlier is not None:
            self.numbers.append(number)
            self.changed = self.changed or earlier[0] != digest.ljust(16, b"\0")
            return KnownLine(number, digest, 0 if self.changed else earlier[1])
        for run, before in enumerate(self._before):
            if (match := before.find(digest)) is not None:
                return KnownLine(number, digest, match[1], (run, match[0]))
        return None

    @property
    def left(self) -> bool:
        """Whether the input had fewer rows than are written."""
        return next(self._written, None) is not None


class Candidates:
    """The candidates of windows that are not written yet, appended as they come, and found by the lines that asked.

    Found are those that an earlier run left for lines that are still to come, and those that are added for `later`. Of
    each of these 25 bytes are in memory, until it is removed from the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "candidates"
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        self._size = self._needed = self._left = self._recalled = 0
        self._keys, self._places, self._taken = array("Q"), array("Q"), bytearray()
        self._order: NDArray[np.intp] | None = None

    def recall(self, written: NDArray[np.uint64] | None = None, again: bool = False) -> None:
        """Have what an earlier run left be found, but for lines whose digests begin as those `written`.

        With `again` no failures are found. A torn end is cut off.
        """
        self._path.with_name(_PART).unlink(missing_ok=True)
        done = np.sort(np.array([], np.uint64) if written is None else written)
        for place, size, digest, candidate in self.stored():
            key = np.uint64(int.from_bytes(digest[:8], "little"))
            at = int(np.searchsorted(done, key))
            stale = at < len(done) and done[at] == key
            if not stale and not (again and candidate.finish_reason == "error"):
                self._index(candidate, digest.hex(), place, size)
        self._size = self._path.stat().st_size if self._path.exists() else 0
        self._recalled = len(self._keys)

    def stored(self) -> Iterator[tuple[int, int, bytes, Candidate]]:
        """Every candidate in the file: where it stands, its size, the digest of the line that asked, and itself.

        A torn end is cut off.
        """
        if not self._path.exists():
            return
        whole = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                place, whole = whole, whole + len(line)
                try:
                    words, row = from_json(line)
                    digest, candidate = bytes.fromhex(words), Candidate.from_json(row)
                except (ValueError, TypeError, KeyError):  # a damaged one is asked for again
                    continue
                yield place, len(line), digest, candidate
        os.truncate(self._path, whole)

    def add(
        self,
        candidates: Sequence[Candidate],
        digests: Mapping[str, str],
        later: bool = False,
        sync: Callable[[int], None] = os.fsync,
    ) -> None:
        """Keep candidates; `digests` are those of the lines behind their queries.

        `sync` brings the file that it is given to the disk where that is due, now or a little later.
        """
        rows = [_kept(digests[c.query_id], c) + b"\n" for c in candidates]
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        unwritten = memoryview(b"".join(rows))
        while unwritten:  # a disk that is full takes a part
            unwritten = unwritten[self._file.write(unwritten) :]
        for candidate, row in zip(candidates, rows, strict=True):
            if later:
                self._index(candidate, digests[candidate.query_id], self._size, len(row))
            self._size += len(row)
        now = time.monotonic()
        if now - self._synced > SYNC_SECONDS:
            sync(self._file.fileno())
            self._synced = now

    @property
    def empty(self) -> bool:
        """Whether none can be found."""
        return not self._keys

    def find(self, digests: Mapping[str, str], take: bool = True) -> tuple[list[Candidate], int]:
        """The candidates of queries, whose lines have these digests now, and how many of them an earlier run left.

        They are taken: not to be found again, and removed once their rows are written. Those that are not to be taken
        yet are only looked for among what an earlier run left.
        """
        if not self._keys or not (take or self._recalled):
            return [], 0
        keys = np.frombuffer(self._keys, dtype=np.uint64)[: None if take else self._recalled]
        if self._order is None or len(self._order) != len(keys):
            self._order = np.argsort(keys, kind="stable")
        wanted = np.fromiter((_key(query, digest) for query, digest in digests.items()), np.uint64, len(digests))
        ends = (np.searchsorted(keys, wanted, side, self._order) for side in ("left", "right"))
        order = self._order
        numbers = sorted(int(number) for first, end in zip(*ends, strict=True) for number in order[first:end])
        del keys  # an array that is looked at cannot grow
        found, before = [], 0
        with self._path.open("rb") as file:
            for number in filterfalse(self._taken.__getitem__, numbers):
                file.seek(self._places[number])
                line = file.readline()
                digest, row = from_json(line)
                candidate = Candidate.from_json(row)
                if digests.get(candidate.query_id) == digest:
                    found.append(candidate)
                    before += number < self._recalled
                    if take:
                        self._taken[number] = True
                        self._left, self._needed = self._left - 1, self._needed - len(line)
        return found, before

    def clear(self) -> None:
        """Drop those whose rows are written, now or once they are many."""
        if not self._left:
            self._write([])
        elif self._size > max(_DROPPED_BYTES, 2 * self._needed):
            self._write([number for number, taken in enumerate(self._taken) if not taken])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _index(self, candidate: Candidate, digest: str, place: int, size: int) -> None:
        self._keys.append(_key(candidate.query_id, digest))
        self._places.append(place)
        self._taken.append(False)
        self._left, self._needed = self._left + 1, self._needed + size

    def _write(self, numbers: Sequence[int]) -> None:
        """Keep no others of those that can be found."""
        if not numbers and self._file is not None:
            self._file.truncate(0)
        elif not numbers and self._path.exists():
            os.truncate(self._path, 0)
        places = array("Q")
        if numbers:
            self.close()
            part = self._path.with_name(_PART)
            with self._path.open("rb") as source, part.open("wb") as target:
                for number in numbers:
                    source.seek(self._places[number])
                    places.append(target.tell())
                    target.write(source.readline())
                self._size = target.tell()
                _sync(target)
            part.replace(self._path)
        else:
            self._size = 0
        self._recalled = sum(number < self._recalled for number in numbers)
        self._keys = array("Q", (self._keys[number] for number in numbers))
        self._places, self._taken, self._order = places, bytearray(len(numbers)), None
        self._left, self._needed = len(numbers), self._size


@contextmanager
def job_lock(files: Files) -> Iterator[None]:
    """Hold the job of an output. Raises `JobError` at once if another process holds it.

    The kernel releases it when its holder dies, `kill -9` included, so a resume never waits for a lease to expire.
    """
    private_folder(files.folder)  # it holds answers
    with open(files.folder / "lock", "w", opener=private_opener) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobError(
                "another process is working on this output", hint="wait for it, or stop it and use --resume"
            ) from error
        yield


def write_status(files: Files, status: Mapping[str, Any]) -> None:
    """Write the job's status for other processes."""
    partial = files.folder / "status.partial"
    partial.write_text(json.dumps(status), encoding="utf-8")
    partial.replace(files.folder / "status")


def read_status(files: Files) -> dict[str, Any]:
    """The present or last status of an output's job. Raises `JobError` where there is none."""
    try:
        status = json.loads((files.folder / "status").read_bytes())
    except (OSError, ValueError) as error:
        raise JobError(f"{files.output}: no job has this output", hint="give the file that -o named") from error
    if status["state"] == "running":
        with suppress(OSError), (files.folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # whoever ran it is gone
            status["state"] = "stopped"
    return dict(status)


class _Lines:
    """The lines of a file, by number."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb") if path.exists() else None
        self._starts = array("Q", [0])
        for line in self._file or ():
            self._starts.append(self._starts[-1] + len(line))

    def __getitem__(self, number: int) -> str:
        assert self._file is not None  # noqa: S101  (a row that was counted is there)
        self._file.seek(self._starts[number])
        return self._file.readline().decode().removesuffix("\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _kept(digest: str, candidate: Candidate) -> bytes:
    """A candidate as JSON; without log-probabilities, which may be infinite, in a fraction of the time."""
    if candidate.logprobs:
        return json.dumps([digest, asdict(candidate)]).encode()
    return _kept_rows().to_json((digest, candidate), warnings=False)


def _key(query: str, digest: str) -> int:
    """What stands for a query of a line in the index."""
    return xxh3_64_intdigest(f"{query}\0{digest}".encode(errors="surrogatepass"))


@cache
def _kept_rows() -> SchemaSerializer:
    """Writes a line's digest and a candidate, knowing what that consists of."""
    return TypeAdapter(tuple[str, Candidate]).serializer


def _objects(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file, up to the first that is none."""
    objects: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        objects.append(row)
    return objects


def _lines_in(folder: Path) -> int:
    """How many lines the run whose records are in a folder has committed."""
    commits = _objects(folder / "commits")[1:]
    return int(commits[-1]["lines"]) if commits else 0


def _cut(path: Path, size: int) -> IO[bytes]:
    """A file open to append to, without what stands behind `size`."""
    path.touch()
    os.truncate(path, size)
    return path.open("ab")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """A file, or a folder with its files but for the lock that is held and what came through a pipe."""
    if path.is_dir():
        for each in path.iterdir():
            if each.name != "lock" and not each.name.startswith(PIPED):
                _remove(each)
        if not any(path.iterdir()):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)
