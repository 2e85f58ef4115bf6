"""Lays out an expert's tensors in one image, and builds that image in memory: read, merged, hashed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symmoe.errors import CheckpointError
from symmoe.loading.headers import FileState, StoredTensor, shared_names, stored_tensors, weight_files
from symmoe.loading.merge import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Update,
    base_name,
    lora_scale,
    read_config,
    read_updates,
)
from symmoe.loading.packed.checkpoint import bytes_of, view_of
from symmoe.loading.packed.digests import architecture_fingerprint, chunk_digests, cores, tensor_tag, weights_digest
from symmoe.loading.packed.manifest import (
    ALIGNMENT,
    BLOCK,
    CHUNK_BYTES,
    DTYPES,
    MOST_NAME,
    Manifest,
    PackedTensor,
    head_bytes,
    write_head,
)

if TYPE_CHECKING:
    import torch

FUSIONS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""The modules that vLLM joins into one, in the order in which it joins their rows."""

_MEMBERS = {member: (fused, place) for fused, members in FUSIONS.items() for place, member in enumerate(members, 1)}
_NUMBER = re.compile(r"(\d+)")
Key = tuple[tuple[str | int, ...], int, str]
_SIDES = ("lora_A", "lora_B")
_FLOATS = ("F64", "F32", "F16", "BF16")
_PIECE = 8 << 20
Progress = Callable[[int, int], None]
"""Called with bytes of work done and in all: a byte counts when it is copied, and again when it is hashed."""


def in_order(names: Iterable[str]) -> list[str]:
    """The names sorted so that the members of each fusion are adjacent, separately for weights and biases."""
    return sorted(names, key=_key)


def _key(name: str) -> Key:
    parts = name.split(".")
    place = 0
    for index, part in enumerate(parts):
        if part in _MEMBERS:
            parts[index], place = _MEMBERS[part]
    pieces = _NUMBER.split(".".join(parts))
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), place, name


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A digest of an adapter's weights and scale, and the names of the base tensors that it changes."""

    digest: str
    changed: frozenset[str]


def adapter_facts(adapter: Path, base: Mapping[str, StoredTensor]) -> AdapterFacts:
    """What the adapter changes in `base`. Raises `CheckpointError`, naming the tensor, if it does not fit."""
    scale = lora_scale(read_config(adapter), adapter)
    weights = adapter / ADAPTER_WEIGHTS
    tensors = stored_tensors([weights])
    halves: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in tensors.items():
        side = next((side for side in _SIDES if f".{side}." in key), None)
        if side is None:
            raise CheckpointError(f"{weights}: {key} is no LoRA matrix")
        halves.setdefault(base_name(key), {})[side] = tensor
    for name, sides in halves.items():
        problem = _misfit(base.get(name), sides.get("lora_A"), sides.get("lora_B"))
        if problem:
            raise CheckpointError(f"{weights}: {name}: {problem}")
    digest = hashlib.sha256(f"{weights_digest(tensors.values())} {scale.hex()}".encode()).hexdigest()
    return AdapterFacts(digest, frozenset(halves))


def _misfit(base: StoredTensor | None, down: StoredTensor | None, up: StoredTensor | None) -> str | None:
    if base is None:
        return "the base has no tensor of that name"
    if down is None or up is None:
        return "one half of the product is missing"
    if base.dtype not in _FLOATS:
        return f"the base has it as {base.dtype}: an adapter cannot be merged into quantised weights"
    fits = len(down.shape) == len(up.shape) == 2 and base.shape == (up.shape[0], down.shape[1])
    if not fits or up.shape[1] != down.shape[0]:
        return f"{up.shape} times {down.shape} does not fit the base, which has {base.shape}"
    return None


def copied(targets: Iterable[tuple[StoredTensor, memoryview]]) -> Iterator[int]:
    """Read each tensor into the memory paired with it, which has its size; yields counts of bytes as they are done.

    Raises `CheckpointError` if a file ends early or cannot be read.
    """
    with ExitStack() as opened, ThreadPoolExecutor(max(2, cores())) as threads:
        files: dict[Path, int] = {}
        jobs = []
        for stored, memory in targets:
            if stored.file not in files:
                files[stored.file] = opened.enter_context(stored.file.open("rb", buffering=0)).fileno()
            for at in range(0, stored.nbytes, _PIECE):
                piece = memory[at : at + _PIECE]
                jobs.append(threads.submit(_read, files[stored.file], stored.offset + at, piece, stored))
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _read(descriptor: int, at: int, memory: memoryview, stored: StoredTensor) -> int:
    done = 0
    while done < memory.nbytes:
        try:
            count = os.preadv(descriptor, [memory[done:]], at + done)
        except OSError as error:
            raise CheckpointError(f"{stored.file}: cannot be read ({error.strerror})") from error
        if not count:
            raise CheckpointError(f"{stored.file}: ends inside of {stored.name!r}: it was cut while it was read")
        done += count
    return done


def merge_into(data: memoryview, changed: Sequence[PackedTensor], adapter: Path) -> None:
    """Add the adapter to the tensors that it changes, which hold the base's bytes.

    The results equal those of `symmoe.loading.merge.merged_weights`, bit for bit. Raises `CheckpointError` if the
    adapter changes other tensors than these.
    """
    updates = read_updates(adapter)
    if updates.keys() != {tensor.name for tensor in changed}:
        raise CheckpointError(f"{adapter}: changed since its layout was read")
    whole = bytes_of(data)

    def merge(tensor: PackedTensor) -> None:
        _merge(updates[tensor.name], view_of(whole, tensor))

    with ThreadPoolExecutor(cores(), initializer=_alone) as threads:
        list(threads.map(merge, changed))


def _merge(update: Update, weight: torch.Tensor) -> None:
    weight.copy_(update.merged(weight))


def _alone() -> None:
    """Let this thread work without a team: a thread for each core, each on tensors of its own.

    Several threads on one tensor wait for each other after every operation, which stalls for seconds where another
    process wants the cores. An engine may have forbidden `torch.set_num_threads`, so OpenMP is told itself.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="openmp")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of an expert goes in its image, and where it comes from.

    `begin` is the offset of the data. `stored` are the base's tensors in the manifest's order; `changed` names those
    that `adapter` is merged into. `files` are the states of the sources when their headers were read.
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
        """Build the image in the first `nbytes` of a writable buffer, and return its manifest.

        With `digests` the image carries checksums, as a file must. Until the end the buffer holds no readable image.
        Raises `CheckpointError` if a source changed or cannot be read, `ValueError` for a buffer too small.
        """
        if buffer.readonly or buffer.nbytes < self.nbytes:
            raise ValueError(f"the buffer must be writable and {self.nbytes} bytes long")
        image = buffer.cast("B")[: self.nbytes]
        image[: self.begin] = bytes(self.begin)
        data = image[self.begin :]
        step = _counting(progress, sum(tensor.nbytes for tensor in self.stored) + data.nbytes * digests)
        self._fill(data, step)
        self._check_sources()
        manifest = self.manifest.with_chunks(chunk_digests(data, self.manifest.chunk_bytes, step) if digests else [])
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
