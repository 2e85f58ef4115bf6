"""What symmoe adds to vLLM's worker: putting an expert's weights into the engine that is running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from symmoe.loading.merge import merged_weights

if TYPE_CHECKING:
    import torch


class SwapExtension:
    """Mixed into vLLM's `Worker` by `worker_extension_cls`; called through `collective_rpc`."""

    reload_weights: Any

    def symmoe_swap(self, model: str, adapter: str | None) -> int:
        """Replace every weight by those of `model` merged with `adapter`; bytes read from the base and merged.

        The checkpoint format is used because a CPU engine packs Linear weights: kernel-format swaps are impossible
        there. The caller clears the prefix cache.
        """
        moved = 0

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal moved
            for name, tensor in merged_weights(model, adapter):
                moved += tensor.numel() * tensor.element_size()
                yield name, tensor

        self.reload_weights(weights_iterator=counted())
        return moved
