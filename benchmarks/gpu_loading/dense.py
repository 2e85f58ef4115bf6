"""Trials 1 to 7: a whole model onto the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.gpu_loading.batch_copy import find_batch_copy
from benchmarks.gpu_loading.place import Place
from benchmarks.gpu_loading.shapes import Packing
from benchmarks.gpu_loading.source import Bench
from benchmarks.gpu_loading.trial import Trial, UnavailableError
from symmoe.loading.scatter import Piece, Scatter


def safetensors_through_cpu(bench: Bench) -> Trial:
    """1: what most loaders do. The file is mapped, and every tensor copied from there."""
    from safetensors.torch import load_file

    def run() -> Mapping[str, torch.Tensor]:
        on_cpu = {name: t for file in bench.files for name, t in load_file(file, device="cpu").items()}
        return {name: tensor.to(bench.place.device) for name, tensor in on_cpu.items()}

    return Trial(run, bench.wanted, bench.packing.payload)


def safetensors_to_device(bench: Bench) -> Trial:
    """2: safetensors asked to load to the device itself."""
    from safetensors.torch import load_file

    def run() -> Mapping[str, torch.Tensor]:
        return {name: t for file in bench.files for name, t in load_file(file, device=bench.place.device).items()}

    return Trial(run, bench.wanted, bench.packing.payload)


def pinned_each(bench: Bench) -> Trial:
    """3: one asynchronous copy per tensor from pinned memory, into tensors that exist."""
    targets, sources = bench.empties(), bench.packing.views(bench.image)

    def run() -> Mapping[str, torch.Tensor]:
        for name, target in targets.items():
            target.copy_(sources[name], non_blocking=True)
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


def packed(bench: Bench) -> Trial:
    """4: one copy of the packed image; the tensors are views of where it lands."""
    arena = torch.empty_like(bench.reference)
    views = bench.packing.views(arena)

    def run() -> Mapping[str, torch.Tensor]:
        arena.copy_(bench.image, non_blocking=True)
        return views

    return Trial(run, bench.wanted, bench.packing.payload, [arena])


def packed_and_scattered(bench: Bench) -> Trial:
    """5: the image in chunks through two staging buffers, each scattered by a kernel while the next arrives."""
    place, targets = bench.place, bench.empties()
    scatters = [Scatter(pieces) for pieces in chunked(bench.packing, targets, bench.chunk)]
    staging = [torch.empty(bench.chunk, dtype=torch.uint8, device=place.device) for _ in range(2)]
    copying, unpacking = place.stream(), place.stream()

    def run() -> Mapping[str, torch.Tensor]:
        free: list[Any] = [None, None]
        for number, scatter in enumerate(scatters):
            slot = number % 2
            part = bench.image[number * bench.chunk : (number + 1) * bench.chunk]
            with place.on(copying):
                if free[slot] is not None:
                    place.await_mark(free[slot])
                staging[slot][: len(part)].copy_(part, non_blocking=True)
                arrived = place.mark()
            with place.on(unpacking):
                place.await_mark(arrived)
                scatter.run(staging[slot])
                free[slot] = place.mark()
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


def batch_copied(bench: Bench) -> Trial:
    """6: all copies of trial 3 in one call of the CUDA runtime."""
    _needs_cuda(bench.place)
    batch_copy, stream = find_batch_copy(), bench.place.stream()
    targets, sources = bench.empties(), bench.packing.views(bench.image)
    copies = [(target.data_ptr(), sources[name].data_ptr(), target.nbytes) for name, target in targets.items()]

    def run() -> Mapping[str, torch.Tensor]:
        batch_copy(copies, stream.cuda_stream)
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


def zero_copied(bench: Bench) -> Trial:
    """7: a kernel reads pinned memory over the bus and writes the tensors: no copy engine, no staging."""
    _needs_cuda(bench.place)
    targets = bench.empties()
    scatter = Scatter([Piece(bench.packing.offsets[name], target) for name, target in targets.items()])

    def run() -> Mapping[str, torch.Tensor]:
        scatter.run(bench.image)
        return targets

    return Trial(run, bench.wanted, bench.packing.payload, list(targets.values()))


def chunked(packing: Packing, targets: Mapping[str, torch.Tensor], chunk: int) -> list[list[Piece]]:
    """The pieces of each chunk of the packed image; a tensor that lies in several is cut where they end."""
    pieces: list[list[Piece]] = [[] for _ in range(0, packing.nbytes, chunk)]
    for name, target in targets.items():
        flat, begin = target.view(-1).view(torch.uint8), packing.offsets[name]
        at = begin
        while at < begin + target.nbytes:
            end = min((at // chunk + 1) * chunk, begin + target.nbytes)
            pieces[at // chunk].append(Piece(at % chunk, flat[at - begin : end - begin]))
            at = end
    return pieces


def _needs_cuda(place: Place) -> None:
    if place.dry:
        raise UnavailableError("needs CUDA")
