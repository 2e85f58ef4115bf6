from __future__ import annotations

import ctypes

import pytest

from symmoe.errors import CapacityError
from symmoe.loading.arena import PAGE, Arena
from symmoe.loading.pinned import pinned


class FakeCudart:
    """Refuses an address that is registered, as CUDA does, and what goes beyond `limit` bytes."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.limit = limit
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if address in self.registered or sum(self.registered.values()) + size > self.limit:
            return 2
        self.registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.registered[address]
        return 0


def test_memory_is_registered_whole_in_chunks_and_unregistered_after() -> None:
    cuda = FakeCudart()
    arena = Arena(5 * PAGE)
    arena.view(2 * PAGE, 1)[:] = b"x"
    with pinned(arena.view(), chunk=2 * PAGE, cudart=cuda) as done:
        assert done
        start = min(cuda.registered)
        assert cuda.registered == {start: 2 * PAGE, start + 2 * PAGE: 2 * PAGE, start + 4 * PAGE: PAGE}
        assert ctypes.string_at(start + 2 * PAGE, 1) == b"x"
    assert cuda.registered == {}
    arena.close()


def test_if_a_chunk_is_refused_none_stays_registered() -> None:
    cuda = FakeCudart(limit=3 * PAGE)
    arena = Arena(5 * PAGE)
    with (
        pytest.raises(CapacityError, match=r"cannot pin 8,192 bytes .*gave 2") as error,
        pinned(arena.view(), chunk=2 * PAGE, cudart=cuda),
    ):
        pytest.fail("the block should not run")
    assert error.value.hint
    assert cuda.registered == {}
    arena.close()


def test_what_fails_inside_leaves_nothing_registered() -> None:
    cuda = FakeCudart()
    arena = Arena(PAGE)
    with pytest.raises(ZeroDivisionError), pinned(arena.view(), cudart=cuda):
        raise ZeroDivisionError
    assert cuda.registered == {}
    arena.close()


def test_without_a_gpu_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pinned(memoryview(bytearray(PAGE))) as done:
        assert not done
