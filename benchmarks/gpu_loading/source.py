"""The model in tmpfs: as a safetensors checkpoint, and as a packed image in pinned memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_loading.place import Place
from benchmarks.gpu_loading.shapes import Packing

SHARD = 5_000_000_000
_CHUNK = 1 << 30


@dataclass(frozen=True)
class Bench:
    """What all trials share.

    `image` is the packed model in pinned host memory, `reference` the same bytes on the device, `files` hold the same
    tensors as safetensors.
    """

    place: Place
    packing: Packing
    image: torch.Tensor
    reference: torch.Tensor
    files: tuple[Path, ...]
    chunk: int
    lora: Packing

    @property
    def wanted(self) -> dict[str, torch.Tensor]:
        """Every tensor as it should be on the device."""
        return self.packing.views(self.reference)

    def empties(self) -> dict[str, torch.Tensor]:
        """A tensor of its own on the device for every tensor of the model, as an engine has them."""
        shapes = self.packing.shapes
        return {name: torch.empty(s, dtype=torch.bfloat16, device=self.place.device) for name, s in shapes.items()}


def random_bytes(nbytes: int, place: Place, seed: int) -> torch.Tensor:
    """The same bytes for the same seed and device."""
    numbers = torch.Generator(place.device).manual_seed(seed)
    made = torch.empty(nbytes, dtype=torch.uint8, device=place.device)
    for begin in range(0, nbytes, _CHUNK):
        made[begin : begin + _CHUNK].random_(0, 256, generator=numbers)
    return made


def write_image(reference: torch.Tensor, path: Path) -> torch.Tensor:
    """The bytes of `reference` in a file that is mapped, so that registering it pins the file's own pages."""
    image = torch.from_file(str(path), shared=True, size=reference.nbytes, dtype=torch.uint8)
    return image.copy_(reference)


def write_shards(tensors: Mapping[str, torch.Tensor], directory: Path) -> tuple[Path, ...]:
    """Safetensors files of 5 GB at most, as checkpoints come."""
    from safetensors.torch import save_file

    paths = []
    for number, shard in enumerate(_shards(tensors)):
        paths.append(directory / f"model-{number:05}.safetensors")
        save_file(shard, paths[-1])
    return tuple(paths)


def pinned(image: torch.Tensor, place: Place) -> tuple[torch.Tensor, dict[str, Any]]:
    """The image in pinned memory, and what pinning cost: it is paid once, at the start, and in no trial.

    Where CUDA cannot register a file's pages (some sandboxes), a copy in memory that CUDA allocates.
    """
    began, how = time.perf_counter(), "cudaHostRegister of the file's pages"
    try:
        place.pin(image)
    except RuntimeError as error:
        how = f"a copy in memory of CUDA's, since {error}"
        image = torch.empty(image.nbytes, dtype=torch.uint8, pin_memory=not place.dry).copy_(image)
    seconds = time.perf_counter() - began
    rate = round(image.nbytes / seconds / 1e9, 3)
    return image, {"how": how, "bytes": image.nbytes, "seconds": round(seconds, 4), "gb_per_s": rate}


def _shards(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard
