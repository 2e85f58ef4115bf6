"""Whether chunks are what their manifest says.

sha256 costs a core for a second a gigabyte, and each rank would hash every byte. So only the reader of a chunk does:
it says which sha256 it held the chunk against, and what XXH3 (64 bits, twenty times faster) its bytes gave. The
receivers compare the one with their own manifest, the other with the bytes that arrived.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import xxhash

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.source import ChunkSource

if TYPE_CHECKING:
    import torch

Fail = Callable[[int, int | None, str], CollectiveError]
_ROW = struct.Struct("!I32s8s")  # the chunk's number, its sha256, its XXH3


class Checks:
    """The checks of one gather at one rank, made in a thread of their own. `fail` reports what is wrong."""

    def __init__(self, source: ChunkSource, rank: int, fail: Fail) -> None:
        self._source, self._rank, self._fail = source, rank, fail
        self._said: dict[int, bytes] = {}
        self._arrived: dict[int, tuple[int, bytes]] = {}
        self._begun: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather_check")

    def read(self, chunk: int, tensor: torch.Tensor) -> Future[None]:
        """Begin to hold a chunk that was read here against its manifest."""
        return self._begin(self._hold, self._rank, chunk, tensor)

    def arrived(self, owner: int, chunk: int, tensor: torch.Tensor) -> None:
        """Begin to take down what arrived of a chunk that `owner` read."""
        self._begin(self._take_down, owner, chunk, tensor)

    def said(self) -> bytes:
        """Wait for what was begun; what this rank says to the others of the chunks it read."""
        for check in self._begun:
            check.result()
        return b"".join(_ROW.pack(chunk, row[:32], row[32:]) for chunk, row in self._said.items())

    def compare(self, words: list[bytes]) -> None:
        """Hold what arrived against what each rank said. Raises `CollectiveError`."""
        said = {
            (owner, chunk): sha256 + fast
            for owner, word in enumerate(words)
            for chunk, sha256, fast in _ROW.iter_unpack(word)
        }
        for chunk, (owner, row) in self._arrived.items():
            if said.get((owner, chunk)) != row:
                raise self._fail(owner, chunk, "is corrupt: it arrived otherwise than this rank's manifest has it")

    def stop(self) -> None:
        """End the thread; what has not begun is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(
        self, check: Callable[[int, int, torch.Tensor, bytes], None], owner: int, chunk: int, tensor: torch.Tensor
    ) -> Future[None]:
        def run() -> None:
            wanted = self._wanted(owner, chunk)
            if wanted is not None:
                check(owner, chunk, tensor, wanted)

        self._begun.append(self._thread.submit(run))
        return self._begun[-1]

    def _hold(self, owner: int, chunk: int, tensor: torch.Tensor, wanted: bytes) -> None:
        data = tensor.cpu().numpy().data
        if hashlib.sha256(data).digest() != wanted:
            self._fail(owner, chunk, "is corrupt: its sha256 is not the one of its manifest")
        self._said[chunk] = wanted + xxhash.xxh3_64_digest(data)

    def _take_down(self, owner: int, chunk: int, tensor: torch.Tensor, wanted: bytes) -> None:
        self._arrived[chunk] = owner, wanted + xxhash.xxh3_64_digest(tensor.cpu().numpy().data)

    def _wanted(self, owner: int, chunk: int) -> bytes | None:
        """The manifest's sha256; reports a failure if there is none."""
        try:
            wanted = self._source.digest(chunk)
        except Exception as error:
            self._fail(owner, chunk, f"could not be checked: {error!r}")
            return None
        if wanted is None:
            self._fail(owner, chunk, "has no sha256 in its manifest: gather without `checksum`, or add it")
        return wanted
