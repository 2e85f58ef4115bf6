"""How an expert's tensors are laid out in one image, and building that image in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from symmoe.errors import CheckpointError
from symmoe.loading.headers import FileState, StoredTensor, shared_names, stored_tensors, weight_files
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from symmoe.loading.packed.adapter import AdapterFacts, adapter_facts
from symmoe.loading.packed.copying import copied
from symmoe.loading.packed.digests import architecture_fingerprint, chunk_digests, tensor_tag, weights_digest
from symmoe.loading.packed.header import head_bytes, write_head
from symmoe.loading.packed.manifest import ALIGNMENT, BLOCK, CHUNK_BYTES, DTYPES, MOST_NAME, Manifest, PackedTensor
from symmoe.loading.packed.merging import merge_into
from symmoe.loading.packed.order import in_order

Progress = Callable[[int, int], None]
"""Called with bytes of work done and in all: a byte counts when it is copied, and again when it is hashed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of an expert goes in its image, and where it comes from.

    `begin` is where the data begins. `stored` are the base's tensors in the manifest's order; `changed` names those
    that `adapter` is merged into. `files` are the sources as they were when their headers were read.
    """

    manifest: Manifest
    begin: int
    stored: tuple[StoredTensor, ...]
    adapter: Path | None
    changed: frozenset[str]
    files: tuple[FileState, ...]

    @classmethod
    def of(cls, model: str, adapter: str | None = None, chunk_bytes: int = CHUNK_BYTES) -> Layout:
        """The layout of the checkpoint directory `model` with `adapter` merged in. Reads headers and samples only.

        Raises `CheckpointError` for files that are corrupt, and for an adapter that does not fit.
        """
        files = weight_files(Path(model))
        merged = Path(adapter) if adapter else None
        sources = [*files, merged / ADAPTER_WEIGHTS, merged / ADAPTER_CONFIG] if merged else files
        states = tuple(map(FileState.of, sources))
        tensors = stored_tensors(files)
        for name, tensor in tensors.items():
            _check_packable(name, tensor)
        facts = adapter_facts(merged, tensors) if merged else AdapterFacts("", frozenset())
        source = weights_digest(tensors.values())
        stored = tuple(tensors[name] for name in in_order(tensors))
        packed = _placed(stored, source, facts)
        end = packed[-1].offset + packed[-1].nbytes if packed else 0
        manifest = Manifest(
            fingerprint=architecture_fingerprint(Path(model)),
            model=source,
            adapter=facts.digest,
            data_bytes=_rounded(end, BLOCK),
            tensors=packed,
            aliases=shared_names(files, tensors),
            chunk_bytes=chunk_bytes,
            chunks=(),
        )
        return cls(manifest, head_bytes(manifest), stored, merged, facts.changed, states)

    @property
    def nbytes(self) -> int:
        """The size of the whole image: head and data."""
        return self.begin + self.manifest.data_bytes

    def write_into(self, buffer: memoryview, progress: Progress | None = None, digests: bool = False) -> Manifest:
        """Build the image in the first `nbytes` of a writable buffer, and give its manifest.

        With `digests` the image carries checksums, as a file must. Until the end the buffer holds no image that could
        be read. Raises `CheckpointError` if a source changed or cannot be read, `ValueError` for a buffer too small.
        """
        if buffer.readonly or buffer.nbytes < self.nbytes:
            raise ValueError(f"the buffer must be writable and {self.nbytes} bytes long")
        image = buffer.cast("B")[: self.nbytes]
        image[: self.begin] = bytes(self.begin)
        data = image[self.begin :]
        step = _counting(progress, sum(tensor.nbytes for tensor in self.stored) + data.nbytes * digests)
        self._fill(data, step)
        self._check_sources()
        chunks = []
        for number, digest in enumerate(chunk_digests(data, self.manifest.chunk_bytes) if digests else ()):
            chunks.append(digest)
            step(min(self.manifest.chunk_bytes, data.nbytes - number * self.manifest.chunk_bytes))
        manifest = self.manifest.with_chunks(chunks)
        image[: self.begin] = write_head(manifest, self.begin)
        return manifest

    def _check_sources(self) -> None:
        for state in self.files:
            if FileState.of(state.path) != state:
                raise CheckpointError(f"{state.path}: changed since its header was read", hint="start again")

    def _fill(self, data: memoryview, step: Callable[[int], None]) -> None:
        end = 0
        targets = []
        for tensor, stored in zip(self.manifest.tensors, self.stored, strict=True):
            data[end : tensor.offset] = bytes(tensor.offset - end)
            end = tensor.offset + tensor.nbytes
            targets.append((stored, data[tensor.offset : end]))
        data[end:] = bytes(data.nbytes - end)
        for count in copied(targets):
            step(count)
        if self.adapter and self.changed:
            changed = [tensor for tensor in self.manifest.tensors if tensor.name in self.changed]
            merge_into(data, changed, self.adapter)


def _check_packable(name: str, tensor: StoredTensor) -> None:
    if not 0 < len(name) <= MOST_NAME:
        raise CheckpointError(f"{tensor.file}: a tensor's name has {len(name)} characters, not 1 to {MOST_NAME}")
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{tensor.file}: {name} is of dtype {tensor.dtype}, which cannot be packed")


def _placed(stored: Sequence[StoredTensor], source: str, adapter: AdapterFacts) -> tuple[PackedTensor, ...]:
    placed = []
    offset = 0
    for tensor in stored:
        origin = (source, tensor.name, adapter.digest) if tensor.name in adapter.changed else (source, tensor.name)
        tag = tensor_tag(*origin)
        placed.append(PackedTensor(tensor.name, tensor.dtype, tensor.shape, offset, tensor.nbytes, tag))
        offset = _rounded(offset + tensor.nbytes, ALIGNMENT)
    return tuple(placed)


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to


def _counting(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return step
