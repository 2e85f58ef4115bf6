"""Merging an adapter into the tensors of an image, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from symmoe.errors import CheckpointError
from symmoe.loading.merge import Update, read_updates
from symmoe.loading.packed.digests import cores
from symmoe.loading.packed.manifest import PackedTensor
from symmoe.loading.packed.views import bytes_of, view_of

if TYPE_CHECKING:
    import torch


def merge_into(data: memoryview, changed: Sequence[PackedTensor], adapter: Path) -> None:
    """Add the adapter to those tensors of the data that it changes, which hold the base's bytes.

    The results are those of `symmoe.loading.merge.merged_weights`, bit for bit. Raises `CheckpointError` if the adapter
    changes other tensors than these.
    """
    updates = read_updates(adapter)
    if updates.keys() != {tensor.name for tensor in changed}:
        raise CheckpointError(f"{adapter}: changed since its layout was read")
    whole = bytes_of(data)

    def merge(tensor: PackedTensor) -> None:
        _merge(updates[tensor.name], view_of(whole, tensor))

    with ThreadPoolExecutor(cores(), initializer=_alone) as threads:
        list(threads.map(merge, changed))


def _merge(update: Update, weight: torch.Tensor) -> None:
    weight.copy_(update.merged(weight))


def _alone() -> None:
    """Let this thread work without a team: a thread for each core, each on tensors of its own.

    Several threads on one tensor wait for each other after every operation, which stalls for seconds where another
    process wants the cores. An engine may have forbidden `torch.set_num_threads`, so OpenMP is told itself.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="openmp")
