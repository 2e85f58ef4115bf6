"""Copies many small pieces of one staging buffer to as many tensors with one kernel launch.

A LoRA adapter is hundreds of matrices of some hundred KiB, a block-scaled checkpoint has thousands of scales: copied
one by one, each costs a launch. Packed, they cross the bus as one transfer and are scattered on the device. Large dense
tensors gain nothing from this; copy those directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError

if TYPE_CHECKING:
    import torch

TILE = 16 * 1024
"""Bytes that one program of the kernel copies: 128 threads with eight loads of 16 bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The bytes of the staging buffer from `offset` that fill `destination`, whatever its dtype."""

    offset: int
    destination: torch.Tensor


class Scatter:
    """Pieces with fixed destinations, checked and put into a device table once, to be run many times.

    It keeps the destinations alive. While their memory is unmapped (a sleeping engine) it must not run.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """Raises `ValueError` for destinations that cannot be written so, `CheckpointError` for a negative offset."""
        _check(pieces)
        self._pieces = tuple(pieces)
        self._spans = _spans(pieces)
        self._table: torch.Tensor | None = None

    def run(self, staging: torch.Tensor) -> None:
        """Copy every piece out of `staging`, a contiguous uint8 buffer, on the current stream.

        The buffer lies on the destinations' device, or in pinned host memory, which the kernel then reads over the bus.
        Raises `CheckpointError` if the buffer ends before a piece does, `ValueError` if it or a destination is unfit.
        """
        self.check(staging)
        if not self._pieces:
            return
        device = self._pieces[0].destination.device
        if device.type != "cuda" or find_spec("triton") is None:
            _copy_each(staging, self._pieces)
            return
        import torch

        from symmoe.loading.scatter_kernel import copy_tiles

        with torch.cuda.device(device):
            if self._table is None:
                self._table = torch.from_numpy(tile_table(self._spans)).to(device)
            copy_tiles(staging, self._table, TILE)

    def check(self, staging: torch.Tensor) -> None:
        """Raise what `run` would raise, and copy nothing."""
        import torch

        if staging.dtype != torch.uint8 or staging.dim() != 1 or not staging.is_contiguous():
            raise ValueError("the staging buffer must be one contiguous row of uint8")
        for number, (piece, address) in enumerate(zip(self._pieces, self._spans[1].tolist(), strict=True)):
            # a tensor given other memory since: what lies at its old address by now may be anyone's
            if piece.destination.data_ptr() != address:
                raise ValueError(f"the destination of piece {number} has moved since the pieces were put together")
        if self._pieces:
            _check_device(staging, self._pieces[0].destination.device)
            _check_room(staging, self._spans)


def scatter(staging: torch.Tensor, pieces: Sequence[Piece]) -> None:
    """Copy every piece out of `staging` in one launch; `Scatter` does the same for pieces that are loaded again."""
    Scatter(pieces).run(staging)


Spans = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def tile_table(spans: Spans) -> NDArray[np.int64]:
    """Cut spans (offsets, addresses, bytes, each `[n]`) into `[tiles, 3]` rows of at most `TILE` bytes."""
    offsets, addresses, sizes = spans
    tiles = -(-sizes // TILE)
    piece = np.repeat(np.arange(len(sizes)), tiles)
    begin = (np.arange(len(piece)) - (np.cumsum(tiles) - tiles)[piece]) * TILE
    rows = (offsets[piece] + begin, addresses[piece] + begin, np.minimum(sizes[piece] - begin, TILE))
    return np.stack(rows, axis=1)


def _spans(pieces: Sequence[Piece]) -> Spans:
    rows = [(piece.offset, piece.destination.data_ptr(), piece.destination.nbytes) for piece in pieces]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _check(pieces: Sequence[Piece]) -> None:
    for number, piece in enumerate(pieces):
        if piece.offset < 0:
            raise CheckpointError(f"piece {number} begins at byte {piece.offset}")
        if not piece.destination.is_contiguous():
            raise ValueError(f"the destination of piece {number} is not contiguous")
        if piece.destination.device != pieces[0].destination.device:
            where = f"{piece.destination.device}, that of piece 0 on {pieces[0].destination.device}"
            raise ValueError(f"the destination of piece {number} is on {where}")
    _, addresses, sizes = _spans(pieces)
    order = np.argsort(addresses, kind="stable")
    order = order[sizes[order] > 0]
    clashes = np.flatnonzero((addresses + sizes)[order][:-1] > addresses[order][1:])
    if len(clashes):
        first, second = sorted(order[clashes[0] : clashes[0] + 2].tolist())
        raise ValueError(f"the destinations of pieces {first} and {second} overlap")


def _check_device(staging: torch.Tensor, device: torch.device) -> None:
    if staging.device != device and not (staging.device.type == "cpu" and staging.is_pinned()):
        raise ValueError(f"the staging buffer is on {staging.device}, the destinations are on {device}")


def _check_room(staging: torch.Tensor, spans: Spans) -> None:
    offsets, addresses, sizes = spans
    worst = int(np.argmax(offsets + sizes))
    if (end := int(offsets[worst] + sizes[worst])) > staging.nbytes:
        raise CheckpointError(
            f"piece {worst} ends at byte {end} of a staging buffer of {staging.nbytes}",
            hint="the packed checkpoint is truncated, or belongs to another model",
        )
    begin = staging.data_ptr()
    if np.any((addresses < begin + staging.nbytes) & (addresses + sizes > begin) & (sizes > 0)):
        raise ValueError("a destination lies inside the staging buffer")


def _copy_each(staging: torch.Tensor, pieces: Sequence[Piece]) -> None:
    import torch

    for piece in pieces:
        target = piece.destination.detach().reshape(-1).view(torch.uint8)
        target.copy_(staging[piece.offset : piece.offset + piece.destination.nbytes], non_blocking=True)
