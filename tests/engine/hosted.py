"""Echo engines with troubles, for processes of their own; named by `module:name` and made there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from symmoe.engines.echo import EchoEngine
from symmoe.errors import CapacityError
from symmoe.types import Call, Generation

HERE = "tests.engine.hosted"
MAKER, PREPARE = f"{HERE}:Troubled", f"{HERE}:prepare"


class Troubled(EchoEngine):
    """Does what stands in a prompt: `die`, `hang`, `fail`; `slow` takes a step every twentieth of a second."""

    stepped: Callable[[], None]

    def __init__(self, window: int) -> None:
        super().__init__(window)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            for word in call.query.text.split():
                self._do(word)
            yield call, generation

    def _do(self, word: str) -> None:
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(600)
        if word == "fail":
            raise CapacityError("it is full", hint="make room")
        for _ in range(60 if word == "slow" else 0):
            time.sleep(0.05)
            self.stepped()


def prepare() -> None:
    """Nothing to import."""
