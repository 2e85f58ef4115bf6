"""The scatter kernel compiled, on a GPU."""

from __future__ import annotations

import random
import sys

import pytest
import torch

from symmoe.errors import CheckpointError
from symmoe.loading.scatter import TILE, Piece, Scatter, scatter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def random_bytes(size: int, seed: int = 0) -> torch.Tensor:
    numbers = torch.Generator("cuda").manual_seed(seed)
    return torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda", generator=numbers)


def pieces_in(arena: torch.Tensor, sizes: list[int], step: int, seed: int) -> list[Piece]:
    """Pieces one after the other, in random order of their sources, with gaps that nothing may touch."""
    numbers, pieces, source, target = random.Random(seed), [], 0, 0
    for size in sizes:
        source += step * numbers.randrange(1, 5)
        target += step * numbers.randrange(1, 5)
        pieces.append(Piece(source, arena[target : target + size]))
        source, target = -(-(source + size) // step) * step, -(-(target + size) // step) * step
    numbers.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("step", [1, 2, 8, 16, 256])
@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_writes_what_single_copies_write_and_not_a_byte_beside(step: int, seed: int) -> None:
    numbers = random.Random(seed)
    sizes = [numbers.choice([0, 1, 7, 16, 1000, TILE - 1, TILE, TILE + 1, 300_001]) for _ in range(200)]
    room = sum(sizes) + len(sizes) * 6 * step
    staging, arenas = (
        random_bytes(room, seed),
        [torch.full((room,), 0xAA, dtype=torch.uint8, device="cuda") for _ in "ab"],
    )
    scatter(staging, pieces_in(arenas[0], sizes, step, seed))
    assert "symmoe.loading.scatter_kernel" in sys.modules, "the kernel was not what ran"
    for piece in pieces_in(arenas[1], sizes, step, seed):
        piece.destination.copy_(staging[piece.offset : piece.offset + piece.destination.nbytes])
    assert torch.equal(*arenas)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int8])
def test_the_matrices_of_an_adapter_land_in_the_slots_of_an_engine(dtype: torch.dtype) -> None:
    stacks = [torch.zeros(4, 1, rows, 64, device="cuda").to(dtype) for rows in (16, 48, 128) for _ in range(64)]
    slots = [stack[2] for stack in stacks]
    offsets = [number * 32768 for number in range(len(slots))]
    packed = random_bytes(len(slots) * 32768)
    loading = Scatter([Piece(offset, slot) for offset, slot in zip(offsets, slots, strict=True)])
    for image in (packed, packed.flip(0)):
        loading.run(image)
        for offset, slot, stack in zip(offsets, slots, stacks, strict=True):
            assert torch.equal(slot.reshape(-1).view(torch.uint8), image[offset : offset + slot.nbytes])
            assert not stack[1].view(torch.uint8).any()


def test_pinned_host_memory_is_read_by_the_kernel_itself() -> None:
    staging = torch.randint(0, 256, (100_003,), dtype=torch.uint8).pin_memory()
    target = torch.zeros(99_999, dtype=torch.uint8, device="cuda")
    scatter(staging, [Piece(4, target)])
    assert torch.equal(target.cpu(), staging[4:])
    with pytest.raises(ValueError, match="buffer is on cpu"):
        scatter(staging.clone(), [Piece(4, target)])


def test_it_runs_in_the_order_of_the_stream_that_it_is_called_on() -> None:
    staging, image = torch.empty(64 << 20, dtype=torch.uint8, device="cuda"), random_bytes(64 << 20)
    target = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    loading, stream = Scatter([Piece(0, target)]), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(4):
            staging.copy_(image.flip(0))
            staging.copy_(image)
            loading.run(staging)
    stream.synchronize()
    assert torch.equal(target, image)


def test_a_truncated_image_writes_nothing() -> None:
    target = torch.zeros(64, dtype=torch.uint8, device="cuda")
    with pytest.raises(CheckpointError, match="ends at byte 64 of a staging buffer of 63"):
        scatter(random_bytes(63), [Piece(0, target)])
    assert not target.any()
