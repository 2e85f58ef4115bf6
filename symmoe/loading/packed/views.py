"""Tensors as views of an image's bytes: nothing is copied."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from symmoe.loading.packed.manifest import PackedTensor, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def bytes_of(image: memoryview) -> torch.Tensor:
    """The image as a tensor of bytes, which keeps the memory alive. Over read-only memory it must not be written to."""
    import torch

    if not image.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    if not image.readonly:
        return torch.frombuffer(image, dtype=torch.uint8)
    with warnings.catch_warnings():  # torch has no read-only tensors, and says so
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        return torch.frombuffer(image, dtype=torch.uint8)


def view_of(data: torch.Tensor, tensor: PackedTensor) -> torch.Tensor:
    """One tensor of the data."""
    piece = data[tensor.offset : tensor.offset + tensor.nbytes]
    return piece.view(torch_dtype(tensor.dtype)).view(tensor.shape)


def joined_view(data: torch.Tensor, tensors: Sequence[PackedTensor]) -> torch.Tensor:
    """Neighbouring tensors as one, the rows of the first on top."""
    first, last = tensors[0], tensors[-1]
    piece = data[first.offset : last.offset + last.nbytes]
    rows = sum(tensor.shape[0] for tensor in tensors)
    return piece.view(torch_dtype(first.dtype)).view(rows, *first.shape[1:])
