"""Switching experts in one running engine, against a plain copy of the same bytes and against a new engine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.config import ExpertConfig, Pool
from symmoe.evaluation.loading.experts import perturbed, require_weights

_PAGE = os.sysconf("SC_PAGE_SIZE")
_COPIES = 15


def measure(pool: Pool, swaps: int, rebuilds: int, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Seconds of each way to switch, their ratios, and memory before and after `swaps` switches in a row.

    Two models of one shape whose every byte differs, the pool's first and a perturbed copy, and one adapter of it:
    `first` builds kernels (on a CPU) from an image in memory, `again` returns to a model whose kernels are still held,
    `adapter_first` and `adapter_again` the same between a base and an adapter on it, where less differs.
    """
    require_weights(pool)
    with tempfile.TemporaryDirectory() as folder:
        tell("writing a second model")
        trio = _trio(pool, Path(folder))
        one, two, adapted = trio.names
        frugal = _engine(trio, kernels=0.0)
        roomy = _engine(trio, kernels=4.0)
        try:
            tell("rebuilding engines")
            seconds = {"rebuild": _median([_start(frugal, name) for name in (one, two) * rebuilds][:rebuilds])}
            nbytes = sum(file.stat().st_size for file in Path(frugal.weights(one).model).glob("*.safetensors"))
            seconds["copy"] = _copy(nbytes)
            tell("switching, kernels made anew each time")
            seconds["first"] = _switching(frugal, (one, two), swaps)
            seconds["adapter_first"] = _switching(frugal, (one, adapted), swaps)
            tell(f"{swaps} switches in a row")
            memory = _memory(frugal, (one, two, adapted), swaps)
            frugal.close()
            tell("switching, kernels held")
            _start(roomy, one)
            seconds["again"] = _switching(roomy, (one, two), swaps)
            seconds["adapter_again"] = _switching(roomy, (one, adapted), swaps)
            held = _memory(roomy, (one, two, adapted), swaps)
        finally:
            frugal.close()
            roomy.close()
    ways = ("first", "again", "adapter_first", "adapter_again")
    return {
        "bytes": nbytes,
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "to_copy": {way: round(seconds[way] / seconds["copy"], 2) for way in ways},
        "rebuild_to": {way: round(seconds["rebuild"] / seconds[way], 1) for way in ways},
        "memory": {"first": memory, "again": held},
        "swaps": swaps,
    }


def _trio(pool: Pool, folder: Path) -> Pool:
    """The pool's first model, a perturbed copy of it, and the first adapter of the pool."""
    base = pool.experts[0]
    adapted = next(expert for expert in pool.experts if expert.adapter and expert.model == base.model)
    other = perturbed(Path(Assembly(pool).weights(base.name).model), folder / "other")
    second = ExpertConfig(name="other", model=str(other))
    return pool.model_copy(update={"experts": (base, second, adapted)})


def _engine(pool: Pool, kernels: float) -> Assembly:
    engine = pool.engine.model_copy(update={"kernel_cache_gib": kernels})
    return Assembly(pool.model_copy(update={"engine": engine}))


def _start(assembly: Assembly, expert: str) -> float:
    weights = assembly.weights(expert).model
    began = time.perf_counter()
    assembly.engine.start(weights, assembly.images.tags(weights))
    return time.perf_counter() - began


def _switching(assembly: Assembly, experts: Sequence[str], swaps: int) -> float:
    """Median seconds of a switch, the images built and each expert served once before."""
    loads = [assembly.loader.ready(experts[turn % len(experts)]).seconds for turn in range(swaps + 2 * len(experts))]
    return _median(loads[2 * len(experts) :])


def _memory(assembly: Assembly, experts: Sequence[str], swaps: int) -> dict[str, Any]:
    """Resident bytes after a few switches, and after many more."""
    _switching(assembly, experts, 10)
    before = _resident()
    _switching(assembly, experts, swaps)
    after = _resident()
    return {"before": before, "after": after, "growth": round(after / before - 1, 4)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _copy(nbytes: int) -> float:
    """Median seconds of a plain copy into memory that is already there, with all of torch's threads."""
    import torch

    source, target = (torch.ones(nbytes, dtype=torch.uint8) for _ in range(2))
    seconds = []
    for _ in range(_COPIES):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return _median(seconds)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
