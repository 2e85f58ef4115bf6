"""Reads a packed image, trusting no byte before its checksum is verified; tensors are views of the image."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from symmoe.errors import CheckpointError
from symmoe.loading.packed.digests import chunk_digests
from symmoe.loading.packed.manifest import PackedTensor, read_head, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

Verify = Literal["full", "header"]


def bytes_of(image: memoryview) -> torch.Tensor:
    """The image as a tensor of bytes, which keeps the memory alive. Do not write to it if the memory is read-only."""
    import torch

    if not image.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    if not image.readonly:
        return torch.frombuffer(image, dtype=torch.uint8)
    with warnings.catch_warnings():  # torch has no read-only tensors, and says so
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        return torch.frombuffer(image, dtype=torch.uint8)


def view_of(data: torch.Tensor, tensor: PackedTensor) -> torch.Tensor:
    """One tensor of the data."""
    piece = data[tensor.offset : tensor.offset + tensor.nbytes]
    return piece.view(torch_dtype(tensor.dtype)).view(tensor.shape)


def joined_view(data: torch.Tensor, tensors: Sequence[PackedTensor]) -> torch.Tensor:
    """Adjacent tensors as one, the rows of the first on top."""
    first, last = tensors[0], tensors[-1]
    piece = data[first.offset : last.offset + last.nbytes]
    rows = sum(tensor.shape[0] for tensor in tensors)
    return piece.view(torch_dtype(first.dtype)).view(rows, *first.shape[1:])


class PackedCheckpoint:
    """A packed image, in a mapped file or in memory, and its tensors as views of it.

    A file is mapped copy-on-write: writing to a tensor does not change it. Views outlive `close`: the memory is freed
    with the last of them.
    """

    def __init__(self, image: memoryview, where: str, mapped: mmap.mmap | None = None) -> None:
        self.where = where
        self.manifest, begin = read_head(image, where)
        self._data: memoryview | None = image[begin:]
        self._bytes: torch.Tensor | None = None
        self._mapped = mapped
        self._tensors = {tensor.name: tensor for tensor in self.manifest.tensors}

    @classmethod
    def open(cls, path: Path, verify: Verify = "full") -> Self:
        """Map a file. `header` trusts that the data is what was written, `full` hashes all of it.

        Raises `CheckpointError`, saying what is wrong with the file, if it is missing, cut, altered or of another
        version.
        """
        try:
            with path.open("rb") as file:
                if not file.seek(0, 2):
                    raise CheckpointError(f"{path}: empty")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        checkpoint = cls(memoryview(mapped), str(path), mapped)
        if verify == "full":
            checkpoint.verify_chunks()
        return checkpoint

    @classmethod
    def from_buffer(cls, buffer: memoryview, where: str = "image in memory") -> Self:
        """Read an image in memory, the first `nbytes` of the buffer. Raises `CheckpointError`.

        The data is not verified: call `verify_chunks` if it comes from elsewhere.
        """
        return cls(buffer.cast("B"), where)

    def verify_chunks(self) -> None:
        """Hash all data on all cores. Raises `CheckpointError` for the first chunk that is not what was written."""
        data, size = self._open_data(), self.manifest.chunk_bytes
        if data.nbytes and not self.manifest.chunks:
            raise CheckpointError(f"{self.where}: has no checksums")
        digests = chunk_digests(data, size)
        for number, (computed, written) in enumerate(zip(digests, self.manifest.chunks, strict=True)):
            if computed != written:
                raise CheckpointError(
                    f"{self.where}: chunk {number} (offset {number * size} of the data): its sha256 differs",
                    hint="the file was altered: pack it again with `symmoe pool pack`",
                )

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor as a view, in the image's order, followed by the aliases."""
        for name in (*self._tensors, *self.manifest.aliases):
            yield name, self.tensor(name)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as a view. Raises `KeyError` for a name that the image does not have."""
        stored = self._tensors[self.manifest.aliases.get(name, name)]
        return view_of(self._data_bytes(), stored)

    def fused(self, names: Sequence[str]) -> torch.Tensor | None:
        """Tensors stacked along their first dimension, as one view; None where they do not lie side by side.

        Raises `KeyError` for a name that the image does not have.
        """
        adjacent = self.manifest.adjacent(names)
        return joined_view(self._data_bytes(), adjacent) if adjacent else None

    def close(self) -> None:
        """Release the memory. Safe to call twice; views given out stay valid."""
        self._data = self._bytes = None
        if self._mapped is not None:
            with suppress(BufferError):  # views are alive: the map goes with the last of them
                self._mapped.close()
        self._mapped = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _data_bytes(self) -> torch.Tensor:
        if self._bytes is None:
            self._bytes = bytes_of(self._open_data())
        return self._bytes

    def _open_data(self) -> memoryview:
        if self._data is None:
            raise ValueError(f"{self.where}: was closed")
        return self._data
