"""The Triton kernel behind `symmoe.loading.scatter`. Imported only where it runs: importing Triton takes a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import torch


@triton.jit  # type: ignore[untyped-decorator]
def copy_tile(staging, table, tile: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton compiles annotations too
    """Copy the bytes of one row of `table`: 16 at a time where both ends are aligned, otherwise one at a time."""
    row = table + 3 * tl.program_id(0)
    source = staging.to(tl.int64) + tl.load(row)
    target = tl.load(row + 1)
    size = tl.load(row + 2)
    source_bytes = source.to(tl.pointer_type(tl.uint8))
    target_bytes = target.to(tl.pointer_type(tl.uint8))
    if (source | target) % 16 == 0:
        # the hint holds in this branch only, so it stands on pointers that only this branch uses
        source_words = tl.multiple_of(source.to(tl.pointer_type(tl.int64)), 16)
        target_words = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), 16)
        words = tl.arange(0, tile // 8)
        whole = words < size // 16 * 2  # even, so that the compiler may move two words at once
        tl.store(target_words + words, tl.load(source_words + words, mask=whole), mask=whole)
        rest = size // 16 * 16 + tl.arange(0, 16)
        tl.store(target_bytes + rest, tl.load(source_bytes + rest, mask=rest < size), mask=rest < size)
    else:
        every = tl.arange(0, tile)
        tl.store(target_bytes + every, tl.load(source_bytes + every, mask=every < size), mask=every < size)


def copy_tiles(staging: torch.Tensor, table: torch.Tensor, tile: int) -> None:
    """Launch one program per row of `table`, `[tiles, 3]` int64: offset in `staging`, target address, bytes ≤ `tile`.

    It runs on the current stream of the table's device; nothing is checked here.
    """
    if len(table):
        copy_tile[(len(table),)](staging, table, tile=tile, num_warps=4)
