"""Sleep and wake as `symmoe.loading.sleep` does them, over plain device memory: no vLLM, real bytes over the link.

What vLLM's allocator does beside it, mapping physical memory to addresses that stay, is left out here: memory is freed
and taken anew. So this is the time of the copies and of our own bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_loading.place import Cpu, Cuda, Place
from benchmarks.gpu_loading.shapes import model, scaled
from symmoe.loading.sleep import WEIGHTS, SleepingWeights

_ROUNDS = 5


@dataclass(slots=True)
class Block:
    """One tensor of a model: `held` is its memory while it is mapped. `handle` begins as vLLM's does."""

    handle: tuple[int, int]
    tag: str = WEIGHTS
    cpu_backup_tensor: Any = None
    is_asleep: bool = False
    held: torch.Tensor | None = field(default=None, repr=False)


class PlainMemory:
    """Blocks of device memory under made-up addresses."""

    def __init__(self, sizes: Sequence[int], place: Place) -> None:
        self._place = place
        self.blocks = {number: Block((number, size)) for number, size in enumerate(sizes)}
        self.copied_out = 0
        for block in self.blocks.values():
            self.map(block)

    def allocations(self) -> dict[int, Block]:
        """Every block by its address."""
        return self.blocks

    def map(self, block: Block) -> None:
        """Memory of undefined content."""
        block.held = torch.empty(block.handle[1], dtype=torch.uint8, device=self._place.device)

    def unmap(self, block: Block) -> None:
        """Give it back to torch's allocator."""
        block.held = None

    def copy_out(self, address: int, block: Block) -> torch.Tensor:
        """A new host image, pinned where there is a GPU."""
        self.copied_out += 1
        assert block.held is not None  # noqa: S101
        image = torch.empty(block.handle[1], dtype=torch.uint8, pin_memory=not self._place.dry)
        return image.copy_(block.held)

    def copy_in(self, address: int, image: torch.Tensor) -> None:
        """Begin to copy an image in."""
        held = self.blocks[address].held
        assert held is not None  # noqa: S101
        held.copy_(image, non_blocking=True)

    def size(self, image: torch.Tensor) -> int:
        """The bytes of an image."""
        return int(image.nbytes)

    def wait(self) -> None:
        """Until the device is done."""
        self._place.synchronize()


def measure(scale: float, dry_run: bool) -> dict[str, Any]:
    """Five rounds of sleep and wake of Llama-3-8B's tensors, at `scale` of its bytes; seconds, and the link's share."""
    place: Place = Cpu() if dry_run else Cuda()
    sizes = [2 * int(torch.Size(shape).numel()) for shape in model(scaled(scale)).values()]
    memory = PlainMemory(sizes, place)
    for number, block in memory.blocks.items():
        assert block.held is not None  # noqa: S101
        block.held.fill_(number % 251)
    weights, sleeps, wakes = SleepingWeights(memory, {}), [], []
    for _ in range(_ROUNDS):
        sleeps.append(_timed(weights.suspend, place))
        wakes.append(_timed(weights.resume, place))
    exact = all(bool((block.held == number % 251).all()) for number, block in memory.blocks.items())
    nbytes, link = sum(sizes), _link(place)
    return {
        "bytes": nbytes,
        "blocks": len(sizes),
        "bit_exact": exact,
        "copied_out": memory.copied_out,
        "first_sleep_s": sleeps[0],
        "sleep_s": min(sleeps[1:]),
        "wake_s": sorted(wakes)[_ROUNDS // 2],
        "link_gb_per_s": round(link / 1e9, 2),
        "times_link": round(sorted(wakes)[_ROUNDS // 2] / (nbytes / link), 3),
    }


def _timed(step: Any, place: Place) -> float:
    place.synchronize()
    began = time.perf_counter()
    step()
    place.synchronize()
    return round(time.perf_counter() - began, 6)


def _link(place: Place, nbytes: int = 1 << 30) -> float:
    """Bytes a second of the fastest of several copies of pinned memory to the device."""
    nbytes = nbytes >> 6 if place.dry else nbytes
    image = torch.empty(nbytes, dtype=torch.uint8, pin_memory=not place.dry)
    target = torch.empty(nbytes, dtype=torch.uint8, device=place.device)
    return nbytes / min(_timed(lambda: target.copy_(image, non_blocking=True), place) for _ in range(_ROUNDS))


def main() -> int:
    """Write the report; 1 if a byte came back wrong or was copied out more than once."""
    parser = argparse.ArgumentParser(description="Sleep and wake over plain device memory.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="share of Llama-3-8B's bytes")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    report = measure(arguments.scale, arguments.dry_run)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(not report["bit_exact"] or report["copied_out"] != report["blocks"])


if __name__ == "__main__":
    sys.exit(main())
