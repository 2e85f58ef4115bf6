"""What is measured, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu_loading import dense, others
from benchmarks.gpu_loading.source import Bench
from benchmarks.gpu_loading.trial import Trial


@dataclass(frozen=True)
class Cell:
    """One row of the report. Its speed-up is over the row named `baseline`."""

    name: str
    title: str
    baseline: str
    make: Callable[[Bench], Trial]
    risky: bool = False
    """It may leave the device unusable, so it comes after those that cannot."""


CELLS = (
    Cell("1", "safetensors to the CPU, then .to(device)", "1", dense.safetensors_through_cpu),
    Cell("2", "safetensors to the device", "1", dense.safetensors_to_device),
    Cell("3", "pinned, one copy per tensor", "1", dense.pinned_each),
    Cell("4", "packed and pinned, one copy", "1", dense.packed),
    Cell("5", "packed in chunks, scattered by a kernel", "1", dense.packed_and_scattered, risky=True),
    Cell("6", "pinned, cudaMemcpyBatchAsync", "1", dense.batch_copied, risky=True),
    Cell("7", "a kernel reads pinned memory", "1", dense.zero_copied, risky=True),
    Cell("8a", "sleep that copies out, and wake", "8a", others.sleep_copying_out),
    Cell("8b", "sleep that keeps images, and wake", "8a", others.sleep_keeping_images),
    Cell("9a", "LoRA, one copy per matrix from pageable memory", "9a", others.lora_each_pageable),
    Cell("9b", "LoRA, one copy per matrix from pinned memory", "9a", others.lora_each_pinned),
    Cell("9c", "LoRA, one copy and one scatter", "9a", others.lora_scattered, risky=True),
    Cell("9d", "LoRA, scattered from pinned memory", "9a", others.lora_zero_copied, risky=True),
    Cell("10", "packed load beside matrix products", "1", others.beside_computing),
)
