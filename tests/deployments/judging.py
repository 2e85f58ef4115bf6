"""Echo engines under a scorer that does what the candidates say, in the reward replica's own process.

lostscorer   ends the process with SIGKILL, the first time
hangscorer   takes for ever, the first time

Else it likes the first candidate alone. It notes the process that weighed in the file `weighed`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.types import Candidate, Query, Recruitment, Verdict
from tests.deployments.streaming_trouble import troubled_streams
from tests.deployments.trouble import first


class TroubledScorer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def weigh(
        self, queries: Sequence[Query], found: Sequence[Sequence[Candidate]], recruitments: Sequence[Recruitment]
    ) -> list[list[Verdict]]:
        said = {word for query in queries for word in query.text.split()}
        if "lostscorer" in said and first(self._folder, "lostscorer"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "hangscorer" in said and first(self._folder, "hangscorer"):
            time.sleep(3600)
        with (self._folder / "weighed").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        return [[Verdict(c.expert, c.slot, float(place == 0)) for place, c in enumerate(row)] for row in found]


def troubled_scorers(pool: Pool) -> Assembly:
    assembly = troubled_streams(pool)
    assembly.scorer = TroubledScorer(pool.root)
    return assembly
