"""Finds, opens, unpacks and decodes files of questions anywhere, as streams of bytes in bounded memory."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

from symmoe.buckets import BUCKET_HINT, SCHEME, is_bucket, s3_system
from symmoe.errors import InputError

HEAD = 1 << 16
"""Bytes by which a file is told."""
CHUNK = 1 << 18
_PACKED = (".gz", ".zst")
_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json"})
_BOMBS_FROM, _BOMB = 256 << 20, 500
"""No text is packed 500 times smaller, 256 MiB of it."""
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV"),
    (b"%PDF", "a PDF", "questions are read from text, JSON, CSV or Parquet"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"BZh", "packed with bzip2", "unpack it, or pack it as .gz or .zst"),
    (b"\xfd7zXZ\x00", "packed with xz", "unpack it, or pack it as .gz or .zst"),
)


class Meter:
    """Progress of reading: bytes as on disk, of `total`, which is None if unknown."""

    def __init__(self, total: int | None) -> None:
        self.done, self.total = 0, total


@dataclass(frozen=True, slots=True)
class File:
    """One file of questions: its name, how it is opened, its size if known, and what it is `called` if not so."""

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None
    called: str = ""

    @property
    def kind(self) -> str:
        """The suffix of its name without that of compression: `.csv` of `questions.CSV.gz`; may be empty."""
        name = (self.called or self.name).lower()
        for packed in _PACKED:
            name = name.removesuffix(packed)
        return Path(name).suffix


def find_files(given: Sequence[str | Path]) -> list[File]:
    """The files behind names: files, folders, patterns, `-` for standard input, and addresses such as `s3://…`.

    A folder stands for all files of questions in it and below, in the order of their names. Raises `InputError` for
    missing ones.
    """
    files = [file for name in given for file in _behind(str(name))]
    if [file.name for file in files].count("-") > 1:
        raise InputError("standard input is named twice")
    return files


def standard_input() -> BinaryIO:
    """The piped input. Raises `InputError` where that is closed."""
    if sys.stdin is None:
        raise InputError("standard input is closed", hint="pipe the questions in, or name a file")
    return sys.stdin.buffer


def would_find(name: str, path: Path) -> bool:
    """Whether a folder or a pattern would include a local file that is yet to be written."""
    source, whole = Path(name), path.resolve()
    if source.is_dir():
        folder = source.resolve()
        return whole.is_relative_to(folder) and _is_questions(whole.relative_to(folder)) and not _dataset(source)
    pattern, named = str(source.absolute()), str(path.absolute())
    alike = fnmatch(named, pattern) or fnmatch(named, pattern.replace("**/", ""))
    return not source.exists() and alike and ("**" in name or pattern.count("/") == named.count("/"))


def _behind(name: str) -> list[File]:
    if name == "-":
        return [File("-", standard_input)]
    if "://" in name:
        return _remote(name)
    path = Path(name)
    if path.is_dir():
        return [_local(each) for each in _dataset(path) or _below(path)]
    if not path.exists() and any(mark in name for mark in "*?["):
        matched = [Path(each) for each in sorted(glob.glob(name, recursive=True)) if Path(each).is_file()]
        if not matched:
            raise InputError(f"{name}: no file matches")
        return [_local(each) for each in matched]
    try:
        return [_local(path)]
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error


def _local(path: Path) -> File:
    status = path.stat()
    return File(str(path), lambda: path.open("rb"), status.st_size if path.is_file() else None)


def _below(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.rglob("*")) if _is_questions(path.relative_to(folder))]
    if not paths:
        hint = f"it should hold files that end in {' '.join(_KINDS)}, or one of these and {' or '.join(_PACKED)}"
        raise InputError(f"{folder}: no file of questions in this folder", hint=hint)
    return [path for path in paths if path.is_file()]


def _is_questions(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    kind = File(path.name, io.BytesIO).kind
    return not hidden and kind in _KINDS and path.name not in _DESCRIPTIONS


def _dataset(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved, in their order; none where it is no such folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            if len(splits) != 1:
                hint = f"name one, such as {folder / splits[0]}" if splits else None
                raise InputError(f"{folder}: holds the splits {', '.join(splits)}", hint=hint)
            return _dataset(folder / splits[0])
        if (folder / "state.json").is_file():
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return [folder / each["filename"] for each in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: is no data set that can be read ({error})") from error
    return []


def _remote(name: str) -> list[File]:
    """Files at an address, through fsspec; in buckets that speak S3 through pyarrow, as weights are."""
    scheme = name.split("://", 1)[0]
    hint = "pip install 'symmoe[remote]', and see that its credentials are where its own tools look for them"
    hint = BUCKET_HINT if is_bucket(name) else hint
    try:
        import fsspec

        system, path = _in_buckets(name) if is_bucket(name) else fsspec.core.url_to_fs(name)
        if any(mark in path for mark in "*?["):
            paths = sorted(system.glob(path))
        elif scheme not in ("http", "https") and system.isdir(path):
            paths = [each for each in sorted(system.find(path)) if _is_questions(Path(each.removeprefix(path)))]
        else:
            paths = [path]
        if not paths:
            raise InputError(f"{_shown(name)}: no file of questions there")
        names = [name] if len(paths) == 1 else [each if "://" in each else f"{scheme}://{each}" for each in paths]
        return [_at(system, path, each) for path, each in zip(paths, names, strict=True)]
    except InputError:
        raise
    except Exception as error:  # clients of storage have errors of their own
        raise InputError(f"{_shown(name)}: cannot be read ({_told(error)})", hint=hint) from None


def _shown(address: str) -> str:
    """An address as it is told to people: of a page without who asks, and without what is signed in its query."""
    return re.sub(r"(?is)^(https?://)(?:[^/?#]*@)?([^?#]*).*", r"\1\2", address)


def _told(error: Exception) -> str:
    """What an error says, in which addresses stand as they are told to people, however a client wrote them."""
    return re.sub(r"(?i)https?://\S*", lambda found: _shown(found[0]), str(error))[:200] or type(error).__name__


def _called(address: str) -> str:
    """The name by which the kind of a file is told: of a page its path, or what its query calls a file of questions."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return address
    names = [parts.path, *(value.strip('"') for _, value in parse_qsl(parts.query))]
    return next((name for name in names if File(name, io.BytesIO).kind in _KINDS), parts.path)


def _in_buckets(name: str) -> tuple[Any, str]:
    from fsspec.implementations.arrow import ArrowFSWrapper

    return ArrowFSWrapper(s3_system()), name.removeprefix(SCHEME).rstrip("/")


def _at(system: Any, path: str, address: str) -> File:
    size = system.info(path).get("size")
    return File(
        _shown(address), lambda: cast(BinaryIO, _Remote(partial(system.open, path, "rb"))), size, _called(address)
    )


class _Remote(io.RawIOBase):
    """A file elsewhere, opened. Raises `OSError` for whatever its client raises, which may be broken off or refused."""

    def __init__(self, opening: Callable[[], Any]) -> None:
        self._file: Any = None
        self._file = self._tried(opening)

    def readinto(self, into: Any) -> int:
        data: bytes = self._tried(self._file.read, len(into))
        into[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        place: int = self._tried(self._file.seek, offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def close(self) -> None:
        if not self.closed and self._file is not None:
            self._file.close()
        super().close()

    def _tried(self, work: Callable[..., Any], *given: Any) -> Any:
        try:
            return work(*given)
        except Exception as error:
            raise OSError(_told(error)) from None


def opened(file: File, meter: Meter) -> tuple[bytes, BinaryIO]:
    """A file's first bytes, and all of it as a stream, decompressed and, if a byte order mark says otherwise, as UTF-8.

    Raises `InputError` for what cannot be opened or is no file of questions.
    """
    try:
        chunks = _counted(file.open(), meter)
        head, chunks = _peeked(chunks)
        while packed := _unpacker(head):
            head, chunks = _peeked(_unpacked(packed, chunks, file.name))
        for mark, what, hint in _FOREIGN:
            if head.startswith(mark):
                raise InputError(f"{file.name}: is {what}", hint=hint)
        for mark, encoding in _ENCODINGS:
            if head.startswith(mark):
                head, chunks = _peeked(_in_utf8(encoding, chunks, file.name))
                break
        if head.startswith(codecs.BOM_UTF8):
            head, chunks = _peeked(_without_mark(chunks))
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read ({error.strerror or error})") from error
    return head, io.BufferedReader(_Stream(chunks), CHUNK)


class _Stream(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _counted(file: BinaryIO, meter: Meter) -> Iterator[bytes]:
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)  # of a pipe what is there, not a chunk to the brim
    try:
        while chunk := read(CHUNK):
            meter.done += len(chunk)
            yield chunk
    finally:
        if sys.stdin is None or file is not sys.stdin.buffer:
            file.close()


def _peeked(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """What a stream begins with, its first line at least unless that is long, and the whole of it."""
    head: list[bytes] = []
    for chunk in chunks:
        head.append(chunk)
        first = b"".join(head)
        if len(first) >= HEAD or b"\n" in first.lstrip():
            break
    prefix = b"".join(head)

    def whole() -> Iterator[bytes]:
        if prefix:
            yield prefix
        yield from chunks

    return prefix, whole()


def _unpacker(head: bytes) -> str:
    return "gz" if head.startswith(b"\x1f\x8b\x08") else "zst" if head.startswith(b"\x28\xb5\x2f\xfd") else ""


def _unpacked(packed: str, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    stream = io.BufferedReader(_Stream(counted()))
    file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if packed == "gz" else _unzstd(stream)
    total = 0
    try:
        while chunk := file.read(CHUNK):
            total += len(chunk)
            if total > _BOMBS_FROM and total > _BOMB * taken:
                hint = "unpack it yourself if its content is meant"
                raise InputError(f"{name}: holds more than {total // taken} times its size, as no text does", hint=hint)
            yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: is damaged: it cannot be unpacked to its end ({error})") from error


def _unzstd(stream: BinaryIO) -> IO[bytes]:
    import pyarrow

    unpacked: IO[bytes] = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd")
    return unpacked


def _in_utf8(encoding: str, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", True).encode()
    except UnicodeError as error:
        raise InputError(f"{name}: is not all {encoding.upper()}, as its first bytes say ({error})") from error


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(chunks).removeprefix(codecs.BOM_UTF8)
    yield from chunks
