"""What a packed image says of itself: which tensors lie where, what they were made of, and their checksums.

Its head is 64 bytes that say what follows, then the manifest as JSON, padded with spaces:

    magic, version, alignment, bytes of the padded manifest, bytes of the image, sha256 of all this and the manifest

The data begins behind it at a multiple of 4096. All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import sha256
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from symmoe.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ALIGNMENT = 256
BLOCK = 4096
CHUNK_BYTES = 16 << 20
MOST_NAME = 1024
DTYPES = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E4M3FNUZ": (1, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (1, "float8_e5m2fnuz"),
    "F8_E8M0": (1, "float8_e8m0fnu"),
    "C64": (8, "complex64"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U64": (8, "uint64"),
    "U32": (4, "uint32"),
    "U16": (2, "uint16"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
}
"""Item size and torch's name of each dtype, by the name that safetensors files use."""

Size = Annotated[int, Field(ge=0, lt=1 << 50)]
Name = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAGIC = b"SYMMOEPK"
VERSION = 1
_FACTS = struct.Struct("<8sIIQQ")
_PREAMBLE = _FACTS.size + hashlib.sha256().digest_size
_MOST_BYTES = 256 << 20
_AGAIN = "pack it again with `symmoe pool pack`"


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor of an image. `offset` counts from the start of the data; equal `tag`s mean equal bytes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Name
    dtype: str
    shape: Annotated[tuple[Size, ...], Field(max_length=16)]
    offset: Size
    nbytes: Size
    tag: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The tensors of an image in the order in which they lie, and where they came from.

    `aliases` are further names of its tensors. `chunks` are the sha256 of each `chunk_bytes` of data; an image that
    never leaves memory may have none. `fingerprint` is the architecture and quantisation that the tensors are for;
    `model` and `adapter` are digests of the source weights (`adapter` is empty if there was none).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    fingerprint: Digest
    model: Digest
    adapter: Digest | Annotated[str, Field(max_length=0)]
    data_bytes: Size
    tensors: tuple[PackedTensor, ...]
    aliases: Mapping[Name, Name]
    chunk_bytes: Annotated[int, Field(ge=BLOCK, lt=1 << 50, multiple_of=BLOCK)]
    chunks: tuple[Digest, ...]

    @property
    def chunk_count(self) -> int:
        """How many chunks the data has; the last may be shorter."""
        return -(-self.data_bytes // self.chunk_bytes)

    @property
    def key(self) -> str:
        """A short digest of the source weights: images with equal keys hold equal tensors."""
        return sha256(f"{self.fingerprint} {self.model} {self.adapter}".encode()).hexdigest()[:32]

    def tags(self) -> dict[str, str]:
        """The tag of each tensor, by name."""
        return {tensor.name: tensor.tag for tensor in self.tensors}

    def with_chunks(self, chunks: Sequence[str]) -> Manifest:
        """The same manifest with the checksums of its data."""
        return replace(self, chunks=tuple(chunks))

    def adjacent(self, names: Sequence[str]) -> tuple[PackedTensor, ...] | None:
        """The named tensors if they are consecutive, without gaps and as rows of one matrix; otherwise None.

        Raises `KeyError` for a name that the image does not have.
        """
        known = {tensor.name: tensor for tensor in self.tensors}
        tensors = tuple(known[self.aliases.get(name, name)] for name in names)
        for before, after in pairwise(tensors):
            joined = before.offset + before.nbytes == after.offset
            alike = before.dtype == after.dtype and before.shape[1:] == after.shape[1:]
            if not (joined and alike):
                return None
        return tensors if tensors and all(tensor.shape for tensor in tensors) else None


def parse_manifest(document: bytes, where: str) -> Manifest:
    """Parse a manifest from JSON that may be corrupt or hostile. Raises `CheckpointError` saying what is wrong."""
    try:
        manifest: Manifest = _adapter().validate_json(document, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise CheckpointError(f"{where}: {place[:80]}: {first['msg']}") from error
    problem = _problem(manifest)
    if problem:
        raise CheckpointError(f"{where}: {problem}")
    return manifest


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in `DTYPES`. Raises `CheckpointError` if this torch has none."""
    import torch

    dtype = getattr(torch, DTYPES[name][1], None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"this version of torch has no dtype {DTYPES[name][1]}", hint="install a newer torch")
    return dtype


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Manifest)


def _problem(manifest: Manifest) -> str | None:
    """What makes a well-formed manifest untrue."""
    if manifest.data_bytes % BLOCK:
        return f"data_bytes: {manifest.data_bytes} is no multiple of {BLOCK}"
    if manifest.chunks and len(manifest.chunks) != manifest.chunk_count:
        return f"chunks: {len(manifest.chunks)} checksums for {manifest.chunk_count} chunks"
    end = 0
    for tensor in manifest.tensors:
        problem = _misplaced(tensor, end, manifest.data_bytes)
        if problem:
            return f"{tensor.name[:80]!r}: {problem}"
        end = tensor.offset + tensor.nbytes
    names = {tensor.name for tensor in manifest.tensors}
    if len(names) != len(manifest.tensors):
        return "two tensors have the same name"
    for alias, target in manifest.aliases.items():
        if alias in names or target not in names:
            return f"alias {alias[:80]!r} of {target[:80]!r}: no further name of a tensor"
    return None


def _misplaced(tensor: PackedTensor, end: int, data_bytes: int) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"unknown dtype {tensor.dtype[:80]!r}"
    if prod(tensor.shape) * DTYPES[tensor.dtype][0] != tensor.nbytes:
        return f"{tensor.nbytes} bytes are not {tensor.shape} of {tensor.dtype}"
    if tensor.offset % ALIGNMENT:
        return f"offset {tensor.offset} is no multiple of {ALIGNMENT}"
    if tensor.offset < end:
        return f"offset {tensor.offset} is inside the tensor before it"
    if tensor.offset + tensor.nbytes > data_bytes:
        return f"bytes {tensor.offset} to {tensor.offset + tensor.nbytes} are not all in the {data_bytes} of the data"
    return None


def head_bytes(manifest: Manifest) -> int:
    """The size of the image's head in bytes, which does not depend on whether the checksums are known yet."""
    expected = manifest.with_chunks(("0" * 64,) * manifest.chunk_count)
    return -(-(_PREAMBLE + len(_encoded(expected))) // BLOCK) * BLOCK


def write_head(manifest: Manifest, size: int) -> bytes:
    """The head of an image with this manifest; `size` is its `head_bytes`."""
    document = _encoded(manifest).ljust(size - _PREAMBLE)
    facts = _FACTS.pack(MAGIC, VERSION, ALIGNMENT, len(document), size + manifest.data_bytes)
    return facts + hashlib.sha256(facts + document).digest() + document


def read_head(image: memoryview, where: str) -> tuple[Manifest, int]:
    """The manifest of an image and the offset of its data. Nothing in the image is trusted.

    Raises `CheckpointError`, saying what is wrong in `where`.
    """
    size = image.nbytes
    if size < _PREAMBLE:
        raise CheckpointError(f"{where}: {size} bytes are too few for a packed checkpoint", hint=_AGAIN)
    magic, version, alignment, manifest_bytes, image_bytes = _FACTS.unpack(image[: _FACTS.size])
    if magic != MAGIC:
        raise CheckpointError(f"{where}: not a packed checkpoint", hint=_AGAIN)
    if version != VERSION:
        raise CheckpointError(f"{where}: version {version} of the format; version {VERSION} is read", hint=_AGAIN)
    begin = _PREAMBLE + manifest_bytes
    if alignment != ALIGNMENT or manifest_bytes > _MOST_BYTES or begin % BLOCK or begin > image_bytes:
        raise CheckpointError(f"{where}: its header contradicts itself", hint=_AGAIN)
    if size != image_bytes:
        raise CheckpointError(f"{where}: {size} bytes, but {image_bytes} were written: cut or grown", hint=_AGAIN)
    facts, document = bytes(image[: _FACTS.size]), bytes(image[_PREAMBLE:begin])
    if hashlib.sha256(facts + document).digest() != bytes(image[_FACTS.size : _PREAMBLE]):
        raise CheckpointError(f"{where}: its header was altered: its sha256 differs", hint=_AGAIN)
    manifest = parse_manifest(document, where)
    if manifest.data_bytes != image_bytes - begin:
        raise CheckpointError(f"{where}: data_bytes: {manifest.data_bytes}, but {image_bytes - begin} follow")
    return manifest, begin


def _encoded(manifest: Manifest) -> bytes:
    document = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    document["tensors"] = [
        {"name": t.name, "dtype": t.dtype, "shape": t.shape, "offset": t.offset, "nbytes": t.nbytes, "tag": t.tag}
        for t in manifest.tensors
    ]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()
