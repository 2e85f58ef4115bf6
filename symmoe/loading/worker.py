"""What symmoe adds to vLLM's worker: an expert's weights for the engine that is running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TRANSFER = "symmoe"


class SwapExtension:
    """Mixed into vLLM's `Worker` by `worker_extension_cls`; called through `collective_rpc`.

    The worker imports this module before it builds its weight-transfer engine, so that is where ours is registered.
    """

    weight_transfer_engine: Any
    start_weight_update: Any
    update_weights: Any
    finish_weight_update: Any

    def symmoe_swap(self, update: dict[str, Any]) -> int:
        """Put an expert's weights in, as one weight update of vLLM's own life cycle; bytes moved.

        The caller has stopped generation, and clears the prefix cache afterwards.
        """
        self.start_weight_update()
        self.update_weights(update)
        self.finish_weight_update()
        return int(self.weight_transfer_engine.moved)

    def symmoe_rebind(self, key: str) -> bool:
        """Serve an expert that this worker still holds; False if it does not."""
        return bool(self.weight_transfer_engine.rebind(key))

    def symmoe_expect(self, keys: Sequence[str]) -> None:
        """Take note of the experts that come next, soonest first."""
        self.weight_transfer_engine.expect(keys)


def _register() -> None:
    """Tell vLLM of the weight-transfer engine, once for each process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if TRANSFER not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(TRANSFER, "symmoe.loading.weight_transfer", "GroupedSwapEngine")


_register()
