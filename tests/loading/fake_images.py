"""Images whose bytes follow from their key, made on command."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping

from symmoe.loading.arena import PAGE, attach
from symmoe.loading.host_tier import Held


def content(key: str, nbytes: int) -> bytes:
    digest = hashlib.sha256(key.encode()).digest()
    return (digest * (nbytes // len(digest) + 1))[:nbytes]


def bytes_of(held: Held) -> bytes:
    """What other processes read of a held image."""
    with attach(held.path) as mapped:
        return mapped[held.offset : held.offset + held.nbytes]


class Gate:
    """Stops a fill: `began` is set when it is reached, and it goes on when `open` is set."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> None:
        self.began.set()
        assert self.open.wait(60), "the test never opened the gate"


class FakeImage:
    """One image of a `FakeSource`."""

    def __init__(self, source: FakeSource, key: str) -> None:
        self._source = source
        self._key = key
        self.nbytes = source.sizes[key]

    def write_into(self, buffer: memoryview) -> None:
        self._source.fills[self._key] += 1
        half = len(buffer) // 2
        buffer[:half] = content(self._key, self.nbytes)[:half]
        if gate := self._source.gates.get(self._key):
            gate.pass_through()
        if errors := self._source.errors.get(self._key):
            raise errors.pop(0)
        buffer[half:] = content(self._key, self.nbytes)[half:]


class FakeSource:
    """Makes images of the sizes given, in bytes. `fills` counts them, `gates` stop them, `errors` end them."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.fills: Counter[str] = Counter()
        self.errors: dict[str, list[BaseException]] = {}
        self.gates: dict[str, Gate] = {}

    @classmethod
    def of_pages(cls, **pages: int) -> FakeSource:
        """Images of so many pages each."""
        return cls({key: count * PAGE for key, count in pages.items()})

    def __call__(self, key: str) -> FakeImage:
        return FakeImage(self, key)

    def gate(self, key: str) -> Gate:
        self.gates[key] = Gate()
        return self.gates[key]
