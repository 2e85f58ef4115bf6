"""Trials 8 to 10: sleeping and waking, LoRA adapters, and loading beside computing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.gpu_loading.shapes import BF16
from benchmarks.gpu_loading.source import Bench, random_bytes
from benchmarks.gpu_loading.trial import Trial
from symmoe.loading.scatter import Piece, Scatter

SLOTS = 4
"""Adapters that an engine has room for; matrices of one kind lie in one tensor, as vLLM keeps them."""


def sleep_copying_out(bench: Bench) -> Trial:
    """8a: what vLLM's level 1 moves when one model sleeps and another wakes. Blocking copies, out and then in."""
    targets, host, sleeper = bench.empties(), bench.packing.views(bench.image), bench.wanted

    def run() -> Mapping[str, torch.Tensor]:
        for name, tensor in sleeper.items():  # onto bytes that are equal: the image stays what it was
            host[name].copy_(tensor)
        for name, target in targets.items():
            target.copy_(host[name])
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


def sleep_keeping_images(bench: Bench) -> Trial:
    """8b: the same with host images that are kept: nothing goes out, and copies in do not wait for each other."""
    targets, host = bench.empties(), bench.packing.views(bench.image)

    def run() -> Mapping[str, torch.Tensor]:
        for name, target in targets.items():
            target.copy_(host[name], non_blocking=True)
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


class Adapter:
    """A LoRA adapter packed on the host, and the slots of an engine that it goes into."""

    def __init__(self, bench: Bench, pinned: bool) -> None:
        self.packing, place = bench.lora, bench.place
        self.reference = random_bytes(self.packing.nbytes, place, seed=1)
        self.image = torch.empty(self.packing.nbytes, dtype=torch.uint8, pin_memory=pinned and not place.dry)
        self.image.copy_(self.reference)
        self.stacks = [
            torch.empty((SLOTS, *shape), dtype=torch.bfloat16, device=place.device)
            for shape in self.packing.shapes.values()
        ]
        self.slots = {name: stack[1] for name, stack in zip(self.packing.shapes, self.stacks, strict=True)}
        self.pieces = [Piece(self.packing.offsets[name], slot) for name, slot in self.slots.items()]

    def trial(self, activate: Callable[[], object]) -> Trial:
        """`activate` fills the slots."""

        def run() -> Mapping[str, torch.Tensor]:
            activate()
            return self.slots

        wanted = self.packing.views(self.reference)
        return Trial(run, wanted, self.packing.payload, self.stacks, more=lambda: {"pieces": len(self.pieces)})


def lora_each_pageable(bench: Bench) -> Trial:
    """9a: one copy per matrix from ordinary memory."""
    return _lora_each(Adapter(bench, pinned=False))


def lora_each_pinned(bench: Bench) -> Trial:
    """9b: one copy per matrix from pinned memory."""
    return _lora_each(Adapter(bench, pinned=True))


def lora_scattered(bench: Bench) -> Trial:
    """9c: one copy of the packed adapter, one kernel that scatters it."""
    adapter = Adapter(bench, pinned=True)
    staging, scatter = torch.empty_like(adapter.reference), Scatter(adapter.pieces)

    def activate() -> None:
        staging.copy_(adapter.image, non_blocking=True)
        scatter.run(staging)

    return adapter.trial(activate)


def lora_zero_copied(bench: Bench) -> Trial:
    """9d: the kernel alone, reading the pinned adapter over the bus."""
    adapter = Adapter(bench, pinned=True)
    scatter = Scatter(adapter.pieces)
    return adapter.trial(lambda: scatter.run(adapter.image))


def beside_computing(bench: Bench) -> Trial:
    """10: the packed load on one stream while another multiplies matrices for about as long; each one's slowdown.

    The time of the trial is that of the load.
    """
    place, arena = bench.place, torch.empty_like(bench.reference)
    views, side = bench.packing.views(arena), 64 if place.dry else 8192
    left, right = (torch.randn(side, side, device=place.device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    loading, computing = place.stream(), place.stream()

    def load() -> None:
        arena.copy_(bench.image, non_blocking=True)

    def multiply(count: int) -> None:
        for _ in range(count):
            torch.mm(left, right, out=product)

    def timed(stream: Any, work: Callable[[], object]) -> tuple[Any, Any]:
        with place.on(stream):
            begin = place.mark()
            work()
            return begin, place.mark()

    def alone(stream: Any, work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(8):
            place.synchronize()
            marks = timed(stream, work)
            place.synchronize()
            seconds.append(place.between(*marks))
        return statistics.median(seconds[1:])

    load_alone = alone(loading, load)
    count = max(1, min(1000, round(load_alone / max(alone(computing, lambda: multiply(1)), 1e-9))))
    gemms_alone = alone(computing, lambda: multiply(count))
    together: list[tuple[float, float]] = []

    def run() -> Mapping[str, torch.Tensor]:
        computed = timed(computing, lambda: multiply(count))
        loaded = timed(loading, load)
        place.synchronize()
        together.append((place.between(*loaded), place.between(*computed)))
        return views

    def more() -> dict[str, Any]:
        load_s, gemms_s = (statistics.median(column) for column in zip(*together[1:], strict=True))
        return {
            "load_alone_s": round(load_alone, 6),
            "gemms": count,
            "gemms_alone_s": round(gemms_alone, 6),
            "gemms_beside_s": round(gemms_s, 6),
            "load_slowdown": round(load_s / load_alone, 3),
            "gemm_slowdown": round(gemms_s / gemms_alone, 3),
        }

    return Trial(run, bench.wanted, bench.packing.payload, [arena], lambda: together[-1][0], more)


def peak(bench: Bench, rounds: int) -> dict[str, float]:
    """The bandwidth that efficiencies are of: the fastest of several copies of 1 GiB (or all there is) of the image."""
    place, nbytes = bench.place, min(1 << 30, bench.image.nbytes // BF16 * BF16)
    target = torch.empty(nbytes, dtype=torch.uint8, device=place.device)
    seconds = []
    for _ in range(rounds + 1):
        place.synchronize()
        begin = place.mark()
        target.copy_(bench.image[:nbytes], non_blocking=True)
        end = place.mark()
        place.synchronize()
        seconds.append(place.between(begin, end))
    return {
        "bytes": nbytes,
        "seconds": round(min(seconds[1:]), 6),
        "gb_per_s": round(nbytes / min(seconds[1:]) / 1e9, 3),
    }


def _lora_each(adapter: Adapter) -> Trial:
    sources = adapter.packing.views(adapter.image)

    def activate() -> None:
        for name, slot in adapter.slots.items():
            slot.copy_(sources[name], non_blocking=True)

    return adapter.trial(activate)
