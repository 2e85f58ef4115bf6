"""The `symmoe` command with an engine that takes a millisecond for each generation and a tagger that needs no model.

Run as `python -m tests.batch.slow_symmoe batch run …`; it is there to be killed. After as many generations as
`LINGERS_AFTER` says, each takes a tenth of a second: whoever waits for them has time to send a signal.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence

from symmoe.cli.main import main

import symmoe.build
from symmoe.engines.echo import EchoEngine
from symmoe.types import Call, Generation

from ..fakes import NamingTagger
from ..taxonomy import SKILLS


class SlowEngine(EchoEngine):
    """An echo that waits as a model would."""

    generated = 0
    lingers_after = float(os.environ.get("LINGERS_AFTER", "inf"))

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            time.sleep(0.001 if self.generated < self.lingers_after else 0.1)
            SlowEngine.generated += 1
            yield call, generation


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests begun in the background pass on that it is ignored
    symmoe.build.EchoEngine = SlowEngine  # type: ignore[misc]
    symmoe.build.build_tagger = lambda *_: NamingTagger(*SKILLS)  # type: ignore[assignment,return-value]
    main()
