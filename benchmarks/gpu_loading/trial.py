"""Timing one way of loading, with every bit checked in every round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_loading.place import Place

if TYPE_CHECKING:
    import torch

POISON = 0xA5


class UnavailableError(Exception):
    """A way that this machine does not have; the message says why."""


class WrongBitsError(Exception):
    """What was loaded is not what was to be loaded."""


@dataclass(frozen=True)
class Trial:
    """One way of loading.

    `run` loads and gives what it loaded; `targets` are overwritten before each round, so that nothing of the round
    before can pass for loaded. `seconds` gives the time of the last run where it is not that of the whole of `run`.
    """

    run: Callable[[], Mapping[str, torch.Tensor]]
    wanted: Mapping[str, torch.Tensor]
    nbytes: int
    targets: Sequence[torch.Tensor] = ()
    seconds: Callable[[], float] | None = None
    more: Callable[[], dict[str, Any]] = dict


def times(trial: Trial, place: Place, rounds: int) -> list[float]:
    """Seconds of each of `rounds` runs, after one that is not counted. Raises `WrongBitsError`."""
    return [_round(trial, place) for _ in range(rounds + 1)][1:]


def summary(seconds: Sequence[float], nbytes: int) -> dict[str, Any]:
    """Median, extremes and bandwidth (GB are 1e9 bytes)."""
    median = statistics.median(seconds)
    return {
        "bytes": nbytes,
        "rounds": len(seconds),
        "median_s": round(median, 6),
        "min_s": round(min(seconds), 6),
        "max_s": round(max(seconds), 6),
        "gb_per_s": round(nbytes / median / 1e9, 3),
    }


def compare(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise `WrongBitsError` unless both have the same tensors, bit for bit."""
    import torch

    if got.keys() != wanted.keys():
        raise WrongBitsError(f"{len(got)} tensors were loaded, {len(wanted)} were wanted, under other names")
    for name, tensor in wanted.items():
        if got[name].shape != tensor.shape or not torch.equal(_bits(got[name]), _bits(tensor)):
            raise WrongBitsError(f"{name} was loaded wrong")


def _round(trial: Trial, place: Place) -> float:
    import torch

    for target in trial.targets:
        target.view(torch.uint8).fill_(POISON)
    place.synchronize()
    began = time.perf_counter()
    got = trial.run()
    place.synchronize()
    seconds = time.perf_counter() - began
    compare(got, trial.wanted)
    return trial.seconds() if trial.seconds else seconds


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """As integers: a NaN does not equal itself. Wide ones, so that comparing takes little memory."""
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.view(torch.int64) if flat.numel() % 8 == 0 and flat.data_ptr() % 8 == 0 else flat
