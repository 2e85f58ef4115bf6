"""Experts as images in memory that an engine can map: packed files where they exist, otherwise in the host tier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from symmoe.loading.host_tier import HostTier
from symmoe.loading.lanes import ExpertWeights
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import find_packed
from symmoe.types import Image


class HostImages:
    """The images of a pool's experts.

    A file in `packs` that was packed from the same weights is mapped as it is, its checksums verified once: all
    processes share its pages. Others are built in the host tier, where they stay while `budget` bytes allow. With
    `staged` all go through the host tier: a GPU reads pinned memory several times as fast as mapped files.
    """

    def __init__(self, budget: int, packs: Path, staged: bool = False) -> None:
        self._budget = budget
        self._packs = packs
        self._staged = staged
        self._layouts: dict[ExpertWeights, Layout] = {}
        self._by_key: dict[str, Layout] = {}
        self._verifying = ThreadPoolExecutor(1, "verify-packs")
        self._verified: dict[Path, Future[None]] = {}

    def key(self, weights: ExpertWeights) -> str:
        """The digest of the weights: equal keys mean equal bytes."""
        return self._layout(weights).manifest.key

    def shape(self, model: str) -> str:
        """The fingerprint of architecture, numerics and vocabulary."""
        return self._layout(ExpertWeights(model)).manifest.fingerprint

    def tags(self, model: str) -> Mapping[str, str]:
        """The tag of each tensor of a model."""
        return self._layout(ExpertWeights(model)).manifest.tags()

    @contextmanager
    def hold(self, weights: ExpertWeights) -> Iterator[Image]:
        """The image of these weights. `CapacityError` if the host tier cannot hold it, `CheckpointError` if altered."""
        key = self.key(weights)
        packed = self._packed(key)
        if packed:
            self._verify(packed).result()
            yield Image(key, weights.model, str(packed), 0, packed.stat().st_size)
            return
        with self.tier.use(key) as held:
            yield Image(key, weights.model, held.path, held.offset, held.nbytes)

    def expect(self, weights: Sequence[ExpertWeights]) -> None:
        """Set what comes next; the first is built or verified in the background.

        Errors are raised when the image is needed.
        """
        keys = [self.key(each) for each in weights]
        packed = {key: self._packed(key) for key in keys}
        built = [key for key in keys if packed[key] is None]
        if built:
            self.tier.expect(built)
        for key in keys[:1]:
            file = packed[key]
            if file:
                self._verify(file)
            else:
                self.tier.prefetch(key)

    def close(self) -> None:
        """Free the memory."""
        self._verifying.shutdown(cancel_futures=True)
        if "tier" in self.__dict__:
            self.tier.close()

    @cached_property
    def tier(self) -> HostTier:
        """The host tier for images that are built, made on first use."""
        return HostTier(self._budget, self._by_key.__getitem__)

    def _layout(self, weights: ExpertWeights) -> Layout:
        if weights not in self._layouts:
            layout = Layout.of(weights.model, weights.adapter)
            self._layouts[weights] = layout
            self._by_key[layout.manifest.key] = layout
        return self._layouts[weights]

    def _packed(self, key: str) -> Path | None:
        return None if self._staged else find_packed(self._packs, self._by_key[key].manifest)

    def _verify(self, packed: Path) -> Future[None]:
        if packed not in self._verified:
            self._verified[packed] = self._verifying.submit(_verify, packed)
        return self._verified[packed]


def _verify(packed: Path) -> None:
    PackedCheckpoint.open(packed, "full").close()


class NamedImages:
    """Images by name alone, for an engine that has no weights."""

    def key(self, weights: ExpertWeights) -> str:
        """The adapter's path, or the model's."""
        return weights.adapter or weights.model

    def shape(self, model: str) -> str:
        """Each model has a shape of its own."""
        return model

    def tags(self, model: str) -> Mapping[str, str]:
        """There are no tensors."""
        return {}

    @contextmanager
    def hold(self, weights: ExpertWeights) -> Iterator[Image]:
        """An image of no bytes."""
        yield Image(self.key(weights), weights.model, "", 0, 0)

    def expect(self, weights: Sequence[ExpertWeights]) -> None:
        """Does nothing."""
