from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from symmoe.batch import job
from symmoe.batch.naming import NamingProcess
from symmoe.bench.lines import echo_pool
from symmoe.build import build_embedder, build_tagger
from symmoe.config import TINY
from symmoe.types import Message, Query, Sampling, Skills

from .conftest import Bench, CountingEngine, questions


class Beside:
    """Stands in for the process: names as the job's own tagger, and notes what it was asked."""

    made: list[Beside]

    def __init__(self, pool: object, own: Any) -> None:
        self._own, self.asked, self.closed = own, 0, False
        Beside.made.append(self)

    @staticmethod
    def serves(tagger: object) -> bool:
        return True

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        self.asked += len(queries)
        return list(self._own.tag(queries))

    def close(self) -> None:
        self.closed = True


def test_a_fast_job_of_many_lines_names_skills_in_a_process_and_answers_alike(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    Beside.made = []
    bench.write(*questions(2000))
    bench.run()
    alone = bench.output.read_bytes(), bench.traces()
    monkeypatch.setattr(job, "NamingProcess", Beside)
    bench.run()
    assert Beside.made == []  # so few lines are no reason
    monkeypatch.setattr(job, "MANY", 256)
    monkeypatch.setattr(job, "FAST", 0.0)
    bench.engine = CountingEngine()
    bench.run()
    (made,) = Beside.made
    assert 0 < made.asked < 2000
    assert made.closed
    assert (bench.output.read_bytes(), bench.traces()) == alone


@pytest.mark.slow
def test_the_process_names_what_the_pools_own_tagger_names_also_after_it_was_killed(state: object) -> None:
    pool = echo_pool(TINY)
    own = build_tagger(pool, build_embedder(pool))
    texts = [
        "Reverse the list: a b c",
        "How many days are in 3 weeks?",
        "Escribe 12 en números romanos",
        "",
        "é" * 3000,
    ]
    asked = [Query(str(n), (Message("user", text),), Sampling(16)) for n, text in enumerate(texts)]
    process = NamingProcess(pool, own)
    assert NamingProcess.serves(own) == (len(os.sched_getaffinity(0)) > 1)
    assert process.tag(asked) == own.tag(asked)
    os.kill(process.pid, signal.SIGKILL)
    assert process.tag(asked) == own.tag(asked)
    process.close()
