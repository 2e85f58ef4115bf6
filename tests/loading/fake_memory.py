"""A stand-in for device memory that loses what is unmapped, copies late, and fails when told to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Block:
    """One allocation. `content` is what it should hold; None where nobody promises anything."""

    handle: tuple[int, int]
    tag: str
    content: bytes | None
    cpu_backup_tensor: Any = None
    is_asleep: bool = False
    copied_out: int = 0
    changes: int = 0


@dataclass
class FakeMemory:
    """Device memory as a dict; an address may be used again by another allocation."""

    blocks: dict[int, Block] = field(default_factory=dict)
    device: dict[int, bytes] = field(default_factory=dict)
    under_way: list[tuple[int, bytes]] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)
    numbers: random.Random = field(default_factory=lambda: random.Random(0))

    def allocate(self, address: int, tag: str, size: int) -> Block:
        block = Block((0, size), tag, self.numbers.randbytes(size))
        self.blocks[address], self.device[address] = block, block.content or b""
        return block

    def allocations(self) -> Mapping[int, Block]:
        return self.blocks

    def map(self, block: Block) -> None:
        self._may_fail("map")
        assert block.is_asleep
        self.device[self._address(block)] = self.numbers.randbytes(block.handle[1])

    def unmap(self, block: Block) -> None:
        self._may_fail("unmap")
        address = self._address(block)
        assert all(target != address for target, _ in self.under_way), "a copy would write into unmapped memory"
        del self.device[address]

    def copy_out(self, address: int, block: Block) -> bytes:
        self._may_fail("copy_out")
        block.copied_out += 1
        return self.device[address]

    def copy_in(self, address: int, image: bytes) -> None:
        self._may_fail("copy_in")
        self.under_way.append((address, image))

    def size(self, image: bytes) -> int:
        return len(image)

    def wait(self) -> None:
        self._may_fail("wait")
        self.numbers.shuffle(self.under_way)
        while self.under_way:
            address, image = self.under_way.pop()
            assert address in self.device
            self.device[address] = image

    def _may_fail(self, operation: str) -> None:
        left = self.fails.pop(operation, None)
        if left == 0:
            raise RuntimeError(f"{operation} failed")
        if left is not None:
            self.fails[operation] = left - 1

    def _address(self, block: Block) -> int:
        return next(address for address, held in self.blocks.items() if held is block)


def two_weights_and_a_cache() -> FakeMemory:
    memory = FakeMemory()
    for address, tag in ((10, "weights"), (20, "weights"), (30, "kv_cache")):
        memory.allocate(address, tag, 16)
    return memory
