"""Checkpoints in object stores that speak S3, read through pyarrow, which every installation has.

Endpoint, region and credentials are those of AWS' own tools: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, `AWS_CA_BUNDLE`, or the machine's own role.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from symmoe.errors import CheckpointError

SCHEME = "s3://"
MANIFEST = "bucket.json"
_THREADS, _PIECE = 8, 8 << 20
BUCKET_HINT = "see that AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say where it is"


def is_bucket(source: str) -> bool:
    """Whether a source names objects: `s3://bucket/prefix`."""
    return source.startswith(SCHEME)


def fetched(source: str, folder: Path, patterns: Sequence[str], system: Any = None) -> Path:
    """The directory with the objects below a prefix whose names match one of the patterns, fetched once.

    A prefix stands for one version: what is complete here is never asked for again. Files that an interrupted fetch
    completed are kept, and concurrent callers fetch once. `system` is a pyarrow file system to use in place of S3.
    Raises `CheckpointError`.
    """
    name = hashlib.sha256(json.dumps([source, list(patterns)]).encode()).hexdigest()[:12]
    done = folder / f"{PurePosixPath(source).name}-{name}"
    if _is_whole(done):
        return done
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{done.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(done):
            partial = folder / f"{done.name}.partial"
            try:
                _fetch(source, partial, patterns, s3_system() if system is None else system)
            except OSError as error:
                raise _unreachable(source, error) from error
            shutil.rmtree(done, ignore_errors=True)
            os.replace(partial, done)
    return done


def read_object(source: str, system: Any = None) -> bytes:
    """The bytes of one object. Raises `CheckpointError`."""
    try:
        with (s3_system() if system is None else system).open_input_stream(source.removeprefix(SCHEME)) as stream:
            content: bytes = stream.read()
            return content
    except OSError as error:
        raise _unreachable(source, error) from error


def _fetch(source: str, into: Path, patterns: Sequence[str], system: Any) -> None:
    from pyarrow.fs import FileSelector, FileType

    prefix = source.removeprefix(SCHEME).rstrip("/")
    listed = [each for each in system.get_file_info(FileSelector(prefix, recursive=True)) if each.type == FileType.File]
    sizes = {each.path: int(each.size) for each in listed if any(fnmatch(each.base_name, one) for one in patterns)}
    names = {path: _inside(path.removeprefix(f"{prefix}/"), source) for path in sizes}
    if not any(path.endswith(".safetensors") for path in sizes):
        others = ", ".join(sorted(each.base_name for each in listed)[:5]) or "nothing"
        raise CheckpointError(f"{source}: no safetensors there, but {others}", hint="pickled weights are never loaded")
    into.mkdir(exist_ok=True)
    for stray in {file for file in into.rglob("*") if file.is_file()} - {into / name for name in names.values()}:
        stray.unlink()
    left = {path: size for path, size in sizes.items() if not _has(into / names[path], size)}
    free = shutil.disk_usage(into).free
    if sum(left.values()) > free:
        raise CheckpointError(
            f"{source}: {sum(left.values()) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {into}"
        )
    with ThreadPoolExecutor(_THREADS) as threads:
        for copied in [threads.submit(_copy, system, path, into / names[path], left[path]) for path in left]:
            copied.result()
    manifest = {"source": source, "files": {names[path]: size for path, size in sorted(sizes.items())}}
    (into / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _copy(system: Any, path: str, to: Path, size: int) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with system.open_input_stream(path) as stream, to.open("wb") as file:
        shutil.copyfileobj(stream, file, _PIECE)
    if not _has(to, size):
        raise OSError(f"{path} came with another size than it has")


def _inside(name: str, source: str) -> str:
    """The name of an object, if it lies below the directory that it is fetched to."""
    if PurePosixPath(name).is_absolute() or any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
        raise CheckpointError(f"{source}: {name!r} would lie outside of its directory")
    return name


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _is_whole(directory: Path) -> bool:
    with suppress(OSError, ValueError, KeyError, AttributeError):
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return all(_has(directory / name, size) for name, size in manifest["files"].items())
    return False


def s3_system() -> Any:
    """S3 as the environment describes it: a file system of pyarrow's. Raises `OSError`."""
    from pyarrow.fs import S3FileSystem

    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    options = {
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "endpoint_override": endpoint.netloc,
        "scheme": endpoint.scheme,
        "tls_ca_file_path": os.environ.get("AWS_CA_BUNDLE"),
    }
    return S3FileSystem(connect_timeout=10.0, **{name: value for name, value in options.items() if value})


def _unreachable(source: str, error: OSError) -> CheckpointError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" (Request ID")[0]
    return CheckpointError(f"{source}: cannot be fetched ({first[:300]})", hint=BUCKET_HINT)
