"""The head of a packed image: 64 bytes that say what follows, then the manifest as JSON, padded with spaces.

    magic, version, alignment, bytes of the padded manifest, bytes of the image, sha256 of all this and the manifest

The data begins behind it at a multiple of 4096. All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import fields

from symmoe.errors import CheckpointError
from symmoe.loading.packed.manifest import ALIGNMENT, BLOCK, Manifest, parse_manifest

MAGIC = b"SYMMOEPK"
VERSION = 1
_FACTS = struct.Struct("<8sIIQQ")
_PREAMBLE = _FACTS.size + hashlib.sha256().digest_size
_MOST_BYTES = 256 << 20
_AGAIN = "pack it again with `symmoe pool pack`"


def head_bytes(manifest: Manifest) -> int:
    """The bytes in front of the data: the same whether the checksums are known yet or not."""
    expected = manifest.with_chunks(("0" * 64,) * manifest.chunk_count)
    return -(-(_PREAMBLE + len(_encoded(expected))) // BLOCK) * BLOCK


def write_head(manifest: Manifest, size: int) -> bytes:
    """The head of an image with this manifest; `size` is its `head_bytes`."""
    document = _encoded(manifest).ljust(size - _PREAMBLE)
    facts = _FACTS.pack(MAGIC, VERSION, ALIGNMENT, len(document), size + manifest.data_bytes)
    return facts + hashlib.sha256(facts + document).digest() + document


def read_head(image: memoryview, where: str) -> tuple[Manifest, int]:
    """The manifest of an image, and where its data begins. Nothing in the image is trusted.

    Raises `CheckpointError` that says what is wrong in `where`.
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
