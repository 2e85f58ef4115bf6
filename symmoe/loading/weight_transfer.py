"""The grouped swap as a weight-transfer engine of vLLM; imported by vLLM's worker only."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from symmoe.errors import CheckpointError
from symmoe.loading.arena import attach, pinned
from symmoe.loading.grouped_swap import Binding
from symmoe.loading.packed.checkpoint import PackedCheckpoint


@dataclass
class SwapInit(WeightTransferInitInfo):  # type: ignore[misc]
    """The tags of the tensors that the engine was started with, and the bytes of idle CPU kernels to keep at most."""

    tags: dict[str, str]
    kernel_budget: int


@dataclass
class SwapUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """An expert's image: the bytes from `offset` of the file at `path`, which may be shared memory."""

    key: str
    path: str
    offset: int
    nbytes: int


class GroupedSwapEngine(WeightTransferEngine[SwapInit, SwapUpdate]):  # type: ignore[misc]
    """Writes an expert's image into the running model: tensor by tensor where possible, otherwise by vLLM's own reload.

    `reason` says why a model cannot be written tensor by tensor, or is empty.
    """

    init_info_cls = SwapInit
    update_info_cls = SwapUpdate
    supports_draft_weight_update = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.moved = 0
        self.reason = "not initialised"
        self._binding: Binding | None = None
        self._maps: dict[str, mmap.mmap] = {}
        self._pinned = ExitStack()

    def init_transfer_engine(self, init_info: SwapInit) -> None:
        """Find the place of every tensor in the model."""
        self.reason = _why_not(self.vllm_config)
        if not self.reason:
            try:
                self._binding = Binding(self.model, init_info.tags, init_info.kernel_budget)
            except CheckpointError as error:
                self.reason = str(error)

    def start_weight_update(self) -> None:
        """Does nothing: tensors are written in place."""

    def finish_weight_update(self) -> None:
        """Does nothing: an update is complete when `update_weights` returns."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Swap an expert in. vLLM's own version waits for an accelerator, which a CPU lacks."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SwapUpdate) -> None:
        """Swap in the image that lies where `update_info` says. Raises `CheckpointError` if it does not fit."""
        with PackedCheckpoint.from_buffer(self._view(update_info), update_info.path) as image:
            if self._binding:
                self.moved = self._binding.swap(update_info.key, image)
            else:
                self.moved = _reload(self.model, self.model_config, image)

    def rebind(self, key: str) -> bool:
        """Serve an expert whose every kernel is still held."""
        return self._binding is not None and self._binding.rebind(key)

    def expect(self, keys: Sequence[str]) -> None:
        """Set the experts that come next, soonest first."""
        if self._binding:
            self._binding.expect(keys)

    def shutdown(self) -> None:
        """Release the mapped files."""
        self._binding = None
        self._pinned.close()
        self._maps.clear()

    def _view(self, update: SwapUpdate) -> memoryview:
        """The image's bytes. Files stay mapped, so that their pages are faulted in, and pinned for a GPU, once."""
        if update.path not in self._maps:
            on_gpu = self.device.type == "cuda"
            self._maps[update.path] = attach(update.path, writable=on_gpu)
            if on_gpu:
                self._pinned.enter_context(pinned(memoryview(self._maps[update.path])))
        return memoryview(self._maps[update.path])[update.offset : update.offset + update.nbytes]


def _why_not(config: Any) -> str:
    """Why this engine's tensors cannot be written one by one."""
    parallel = config.parallel_config
    if parallel.tensor_parallel_size * parallel.pipeline_parallel_size > 1:
        return "its layers are split over several devices"
    if config.quant_config is not None or config.model_config.quantization is not None:
        return "its weights are quantised: kernels repack them"
    if config.lora_config is not None:
        return "its layers are wrapped for LoRA"
    return ""


def _reload(model: Any, model_config: Any, image: PackedCheckpoint) -> int:
    """vLLM's layer-wise reload from checkpoint format; bytes loaded."""
    from vllm.model_executor.model_loader.reload.layerwise import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    moved = 0

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal moved
        for name, tensor in image.tensors():
            moved += tensor.numel() * tensor.element_size()
            yield name, tensor

    initialize_layerwise_reload(model)
    model.load_weights(counted())
    finalize_layerwise_reload(model, model_config)
    _repack_tied_head(model)
    return moved


def _repack_tied_head(model: Any) -> None:
    """A tied head loads nothing itself, so on a CPU its kernel would stay that of the embedding before."""
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None and hasattr(head, "cpu_linear"):
        method.process_weights_after_loading(head)
