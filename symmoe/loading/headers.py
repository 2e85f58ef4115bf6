"""Where tensors lie in a checkpoint's safetensors files, read from the headers alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file: `nbytes` bytes from `offset` in `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileState:
    """The identity of the file at a path: it counts as another file once any of this changes."""

    path: Path
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The file that is there now. Raises `CheckpointError` if there is none."""
        try:
            facts = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        return cls(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def weight_files(model: Path) -> list[Path]:
    """The safetensors files of a model directory, by name: those in its index if it has one, otherwise all.

    Raises `CheckpointError` if there are none or one is missing.
    """
    files = sorted(model.glob("*.safetensors"))
    index = model / INDEX
    if index.exists():
        named = _named_by(index)
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise CheckpointError(f"{model / missing[0]}: named by {INDEX}, but not there")
        files = [file for file in files if file.name in named]
    if not files:
        raise CheckpointError(f"{model}: no safetensors file in it")
    return files


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Every tensor of the files by name. Raises `CheckpointError` for a corrupt file and for a name in two files."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        header, data = _header(file)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in tensors:
                raise CheckpointError(f"{file}: has {name!r}, which {tensors[name].file.name} has too")
            begin, end = entry["data_offsets"]
            tensors[name] = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), file, data + begin, end - begin)
    return tensors


def shared_names(files: Iterable[Path], tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Names that share another tensor's storage, as `safetensors.torch.save_model` records them."""
    shared: dict[str, str] = {}
    for file in files:
        metadata = _header(file)[0].get("__metadata__") or {}
        shared |= {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    return shared


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a file that safetensors found valid, and where its data begins."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            return json.loads(stream.read(length)), 8 + length
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{file}: corrupt or truncated safetensors ({error})") from error


def _named_by(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weights ({type(error).__name__}: {error})") from error
