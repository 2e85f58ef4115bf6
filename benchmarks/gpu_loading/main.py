"""The command: set up, measure, write the report."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LEAST_ROUNDS = 7
CHUNK = 256 << 20


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a cell failed, 2 if none could be measured, else 0 (cells may be skipped)."""
    arguments = _arguments(words)
    if arguments.rounds < LEAST_ROUNDS and not arguments.dry_run:
        return _refuse(f"a median of {arguments.rounds} rounds says little: give --rounds {LEAST_ROUNDS} or more")
    try:
        import torch
    except ImportError:
        return _refuse("torch is not installed")
    if not arguments.dry_run and not torch.cuda.is_available():
        return _refuse("no CUDA device: nothing was measured (--dry-run runs the same code on the CPU)")
    try:
        report = _measure(arguments)
    except NotEnoughError as error:
        return _refuse(str(error))
    print(json.dumps(report, indent=2))
    return int(any(row["status"] == "failed" for row in report["cells"]))


class NotEnoughError(Exception):
    """The machine lacks room for this scale, or the place where it was to be."""


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.gpu_loading.cells import CELLS
    from benchmarks.gpu_loading.others import peak
    from benchmarks.gpu_loading.place import Cpu, Cuda
    from benchmarks.gpu_loading.report import attempted, compared, rows
    from benchmarks.gpu_loading.shapes import Packing, adapter, model, scaled
    from benchmarks.gpu_loading.source import Bench, pinned, random_bytes, write_image, write_shards

    began, place = time.monotonic(), Cpu() if arguments.dry_run else Cuda()
    sizes = scaled(arguments.scale)
    packing, lora = Packing(model(sizes)), Packing(adapter(sizes, arguments.rank))
    _check_room(packing.nbytes, lora.nbytes, place.free_bytes(), arguments.directory)
    report = _header(arguments, place.name(), packing)
    with tempfile.TemporaryDirectory(prefix="gpu-loading-", dir=arguments.directory) as directory:
        reference = random_bytes(packing.nbytes, place, seed=0)
        stored = write_image(reference, Path(directory) / "model.packed")
        files = write_shards(packing.views(stored), Path(directory))
        image, report["pinning"] = pinned(stored, place)
        chunk = min(CHUNK, max(1 << 16, packing.nbytes // 8 // 256 * 256))
        bench = Bench(place, packing, image, reference, files, chunk, lora)
        try:
            report["peak"] = peak(bench, arguments.rounds)
            report["set_up_s"] = round(time.monotonic() - began, 1)
            found = []
            for row in rows(CELLS, bench, arguments.rounds, began + arguments.budget):
                found.append(row)
                cells = compared(found, [cell.name for cell in CELLS], report["peak"]["gb_per_s"])
                report |= {"cells": cells, "seconds": round(time.monotonic() - began, 1)}
                _write(report, arguments.out)  # after every cell: a run that is killed keeps what it measured
                print(f"{row['cell']:>3} {row['status']} {row.get('median_s', row.get('reason', ''))}", file=sys.stderr)
        finally:
            attempted(lambda: place.unpin(stored), "")
    return report


def _header(arguments: argparse.Namespace, device: str, packing: Any) -> dict[str, Any]:
    return {
        "device": device,
        "dry_run": arguments.dry_run,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, python {platform.python_version()}",
        "versions": {name: _version(name) for name in ("torch", "triton", "safetensors", "numpy")},
        "scale": arguments.scale,
        "lora_rank": arguments.rank,
        "tensors": len(packing.shapes),
        "bytes": packing.payload,
        "cells": [],
    }


def _check_room(model: int, adapter: int, device_free: int, directory: Path) -> None:
    """The model lies on the device twice, and beside it what comparing needs; in tmpfs twice."""
    if not directory.is_dir():
        raise NotEnoughError(f"{directory} is no directory: name a tmpfs with --directory")
    free = shutil.disk_usage(directory).free
    for need, have, where in (
        (2.3 * model + 8 * adapter, device_free, "free device memory"),
        (2.05 * model, free, f"free space in {directory}"),
    ):
        if need > have:
            raise NotEnoughError(
                f"this scale needs {need / 1e9:.1f} GB of {where}, there are {have / 1e9:.1f}: give a smaller --scale"
            )


def _write(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _refuse(why: str) -> int:
    print(f"gpu_loading: {why}", file=sys.stderr)
    return 2


def _share(word: str) -> float:
    if not 0 < float(word) <= 1:
        raise argparse.ArgumentTypeError(f"{word} is not above 0 and at most 1")
    return float(word)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast weights get onto one GPU, by each way there is.")
    parser.add_argument("--scale", type=_share, default=1.0, help="share of Llama-3-8B's bytes (1: 16.1 GB)")
    parser.add_argument("--rank", type=int, default=16, help="rank of the LoRA adapter")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--budget", type=float, default=400.0, help="seconds after which no further cell begins")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the model is put: a tmpfs")  # noqa: S108
    parser.add_argument("--out", type=Path, default=Path("out/bench/gpu_loading.json"))
    parser.add_argument("--dry-run", action="store_true", help="on the CPU: checks results, measures nothing of use")
    return parser.parse_args(words)
