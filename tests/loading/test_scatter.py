"""One launch against one copy per piece, bit for bit. The kernel runs in Triton's interpreter, so no GPU is needed."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import CheckpointError
from symmoe.loading.scatter import TILE, Piece, Scatter, _spans, scatter, tile_table

KERNEL = "symmoe.loading.scatter_kernel"
GUARD = 64
Run = Callable[[torch.Tensor, Sequence[Piece]], None]


@pytest.fixture(scope="module")
def interpreted() -> Run:
    """The kernel, loaded anew with the interpreter on, as a function with the shape of `scatter`."""
    with interpreter() as patch:
        patch.delitem(sys.modules, KERNEL, raising=False)
        kernel: ModuleType = importlib.import_module(KERNEL)
    sys.modules.pop(KERNEL, None)

    def run(staging: torch.Tensor, pieces: Sequence[Piece]) -> None:
        Scatter(pieces).check(staging)
        with interpreter():
            kernel.copy_tiles(staging, torch.from_numpy(tile_table(_spans(pieces))), TILE)

    return run


@contextmanager
def interpreter() -> Iterator[pytest.MonkeyPatch]:
    """Triton reads the setting when a kernel is decorated and again when it runs; tests after these must not see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield patch


def layout(seed: int, sizes: Sequence[int], aligned: bool) -> tuple[torch.Tensor, list[tuple[int, int]], int]:
    """Random bytes, and for each size an offset in them and one in an arena with a guard around every piece."""
    numbers = random.Random(seed)
    step = 16 if aligned else 1
    places, end = [], 0
    for size in sizes:
        end = -(-end // step) * step + step * numbers.randrange(3)
        target = sum(-(-s // 16) * 16 + 2 * GUARD for s in sizes[: len(places)]) + step * numbers.randrange(3)
        places.append((end, target))
        end += size
    staging = torch.randint(0, 256, (end,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return staging, places, sum(-(-s // 16) * 16 + 2 * GUARD for s in sizes)


def written_by(
    run: Run, staging: torch.Tensor, places: Sequence[tuple[int, int]], sizes: Sequence[int], room: int
) -> torch.Tensor:
    """The whole arena after `run`: pieces and, between them, the guards that nothing may touch."""
    arena = torch.full((room,), 0xAA, dtype=torch.uint8)
    run(staging, [Piece(o, arena[t : t + size]) for (o, t), size in zip(places, sizes, strict=True)])
    return arena


SIZES = st.one_of(st.integers(0, 40), st.sampled_from([0, 1, TILE - 1, TILE, TILE + 1, 2 * TILE + 17]))


@given(sizes=st.lists(SIZES, max_size=6), seed=st.integers(0, 2**16), aligned=st.booleans())
def test_the_kernel_writes_what_single_copies_write_and_not_a_byte_beside(
    interpreted: Run, sizes: list[int], seed: int, aligned: bool
) -> None:
    staging, places, room = layout(seed, sizes, aligned)
    wanted = torch.full((room,), 0xAA, dtype=torch.uint8)
    for (offset, target), size in zip(places, sizes, strict=True):
        wanted[target : target + size] = staging[offset : offset + size]
    for run in (interpreted, scatter):
        assert torch.equal(written_by(run, staging, places, sizes, room), wanted)


@given(sizes=st.lists(SIZES, max_size=8), seed=st.integers(0, 2**16))
def test_the_table_covers_every_byte_once_in_tiles_that_keep_the_alignment_of_their_piece(
    sizes: list[int], seed: int
) -> None:
    staging, places, room = layout(seed, sizes, aligned=False)
    arena = torch.zeros(room, dtype=torch.uint8)
    pieces = [Piece(o, arena[t : t + size]) for (o, t), size in zip(places, sizes, strict=True)]
    rows = tile_table(_spans(pieces)).tolist()
    assert all(0 < size <= TILE for _, _, size in rows)
    covered = sorted((address - arena.data_ptr() + k, offset + k) for offset, address, size in rows for k in (0, size))
    ends = [(t + k, o + k) for (o, t), s in zip(places, sizes, strict=True) if s for k in _cuts(s)]
    assert covered == sorted(ends)
    assert sum(size for *_, size in rows) == sum(sizes)
    assert len(staging) >= sum(sizes)


def _cuts(size: int) -> list[int]:
    """Where the tiles of a piece begin and end."""
    return [edge for begin in range(0, size, TILE) for edge in (begin, min(begin + TILE, size))]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.float64]
)
def test_every_dtype_and_shape_gets_its_bits(interpreted: Run, dtype: torch.dtype) -> None:
    staging = torch.randint(0, 2, (4096,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for run in (interpreted, scatter):
        targets = [torch.zeros(shape, dtype=dtype) for shape in ((), (3, 5), (2, 0), (1, 2, 7))]
        run(staging, [Piece(256 * number + 3, target) for number, target in enumerate(targets)])
        for number, target in enumerate(targets):
            begin = 256 * number + 3
            wanted = staging[begin : begin + target.nbytes].clone()
            assert torch.equal(target.reshape(-1).view(torch.uint8), wanted)


def test_pieces_put_together_once_are_loaded_from_one_buffer_after_another() -> None:
    parameter = torch.nn.Parameter(torch.zeros(6))
    adapters = [torch.randint(0, 256, (24,), dtype=torch.uint8) for _ in range(3)]
    loading = Scatter([Piece(0, parameter)])
    for adapter in adapters:
        loading.run(adapter)
        assert torch.equal(parameter.detach().view(torch.uint8), adapter)


def test_nothing_to_scatter_is_nothing_done() -> None:
    staging = torch.zeros(0, dtype=torch.uint8)
    scatter(staging, [])
    scatter(staging, [Piece(0, torch.zeros(0))])


def test_a_piece_that_ends_after_the_buffer_is_named_and_nothing_is_written() -> None:
    first, second = torch.zeros(4), torch.zeros(4)
    with pytest.raises(CheckpointError, match="piece 1 ends at byte 32 of a staging buffer of 31"):
        scatter(torch.ones(31, dtype=torch.uint8), [Piece(0, first), Piece(16, second)])
    assert not first.any()


def test_a_piece_before_the_buffer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="piece 0 begins at byte -4"):
        Scatter([Piece(-4, torch.zeros(1))])


def test_destinations_that_a_flat_copy_would_get_wrong_are_refused() -> None:
    grid = torch.zeros(4, 4)
    with pytest.raises(ValueError, match="piece 1 is not contiguous"):
        Scatter([Piece(0, grid[0]), Piece(0, grid[:, 1])])
    with pytest.raises(ValueError, match="pieces 0 and 2 overlap"):
        Scatter([Piece(0, grid[1:3]), Piece(0, grid[0, :0]), Piece(0, grid[2])])
    with pytest.raises(ValueError, match="piece 1 is on meta, that of piece 0 on cpu"):
        Scatter([Piece(0, grid[0]), Piece(0, torch.zeros(4, device="meta"))])


@pytest.mark.parametrize(
    "staging", [torch.zeros(16), torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8)[::2]]
)
def test_a_buffer_that_is_no_row_of_bytes_is_refused(staging: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one contiguous row of uint8"):
        scatter(staging, [Piece(0, torch.zeros(1))])


def test_a_destination_inside_the_buffer_is_refused() -> None:
    staging = torch.zeros(16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="inside the staging buffer"):
        scatter(staging, [Piece(0, staging[8:12])])


def test_a_buffer_of_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer is on meta, the destinations are on cpu"):
        scatter(torch.zeros(8, dtype=torch.uint8, device="meta"), [Piece(0, torch.zeros(1))])


def test_a_destination_given_other_memory_is_never_written_to_at_its_old_address() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    loading, before = Scatter([Piece(0, parameter)]), parameter.data
    parameter.data = torch.zeros(4)
    with pytest.raises(ValueError, match="destination of piece 0 has moved"):
        loading.run(torch.ones(16, dtype=torch.uint8))
    assert not before.any()


COMPILE = f"""
import importlib, re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
kernel = importlib.import_module({KERNEL!r}).copy_tile
source = ASTSource(kernel, {{"staging": "*u8", "table": "*i64", "tile": "constexpr"}}, {{(2,): {TILE}}})
compiled = __import__("triton").compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 4}})
print(*re.findall(r"(?:ld|st)\\.global\\.v2\\.b64", compiled.asm["ptx"]))
"""


def test_compiled_for_a_gpu_the_aligned_path_moves_sixteen_bytes_at_a_time() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    moves = done.stdout.split()
    each = TILE // (128 * 16)
    assert (moves.count("ld.global.v2.b64"), moves.count("st.global.v2.b64")) == (each, each)
