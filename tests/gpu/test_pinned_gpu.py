"""The host tier's memory registered with CUDA."""

from __future__ import annotations

import pytest
import torch

from symmoe.loading.arena import Arena, pinned

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZE = 64 << 20


def test_while_pinned_the_tiers_memory_is_page_locked_and_copied_bit_for_bit() -> None:
    arena = Arena(SIZE)
    tensor = torch.frombuffer(arena.view(), dtype=torch.uint8)
    tensor.copy_(torch.randint(0, 256, (SIZE,), dtype=torch.uint8))
    assert not tensor.is_pinned()
    with pinned(arena.view()) as registered:
        assert registered
        assert tensor.is_pinned()
        on_device = tensor.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        assert torch.equal(on_device.cpu(), tensor)
    assert not tensor.is_pinned()


def test_the_same_memory_can_be_pinned_again() -> None:
    arena = Arena(SIZE)
    for _ in range(3):
        with pinned(arena.view()) as registered:
            assert registered
