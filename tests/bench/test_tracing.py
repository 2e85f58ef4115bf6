"""What keeping traces costs is measured by what the service does and by what stands in its store."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

import symmoe.build
from symmoe.bench import tracing
from symmoe.bench.clients import Ask, closed, run
from symmoe.bench.tracing import TracingLoad, clients_apart, measure_tracing
from symmoe.config import read_pool
from symmoe.errors import EngineError
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, ScatteringEmbedder

POLICIES = ["off", "metadata", "text"]


@pytest.mark.slow
def test_clients_in_a_process_of_their_own_tell_what_came_of_every_request() -> None:
    with clients_apart() as crowd:
        outcomes = [crowd("http://127.0.0.1:1", closed([Ask("adder", "sums", 1)] * 3, 2)) for _ in range(2)]
    assert [[each.kind for each in some] for some in outcomes] == [["broken"] * 3] * 2


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in this process, and routing without a model."""
    monkeypatch.setattr(tracing, "clients_apart", lambda: nullcontext(lambda url, load: asyncio.run(run(url, load))))
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    monkeypatch.setattr(symmoe.build, "build_embedder", lambda *_: ScatteringEmbedder())


@pytest.mark.usefixtures("nearby")
def test_policies_take_turns_and_only_what_is_kept_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMOE_STATE", str(tmp_path / "mine"))
    turns: list[str] = []
    keep = tracing._Running.keep
    monkeypatch.setattr(
        tracing._Running, "keep", lambda served, policy: (turns.append(policy), keep(served, policy))[1]
    )
    pool = read_pool(str(echo_pool(tmp_path)))
    report = measure_tracing(pool, TracingLoad(blocks=1, requests=5, traces=20))
    assert turns == [*POLICIES, *POLICIES, *POLICIES[::-1], "metadata"]
    assert {policy: len(rows) for policy, rows in report["rounds"].items()} == dict.fromkeys(POLICIES, 2)
    assert report["traces_lost"] == 0
    assert all(row["requests_per_second"] > 0 < row["cpu_ms"] for rows in report["rounds"].values() for row in rows)
    assert set(report["search_ms"]) >= {"by id", "nothing fits"}
    assert report["met"] == all(bar["met"] for bar in report["bars"].values())
    assert os.environ["SYMMOE_STATE"] == str(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()  # what is kept there is not touched


def test_a_block_is_compared_with_its_own_rounds_without_traces() -> None:
    """The machine becomes slower by half from one block to the next; keeping takes a tenth all the time."""
    drifting = [100.0, 100.0, 50.0, 50.0, 25.0, 25.0]
    rounds = {
        policy: [{"requests_per_second": each * share, "cpu_ms": 1 / each} for each in drifting]
        for policy, share in (("off", 1.0), ("metadata", 0.9), ("text", 0.98))
    }
    found = tracing._compared(rounds, "metadata", 0)["requests_per_second"]
    assert found == {"median": 0.9, "ci95": [0.9, 0.9]}
    bars = tracing._bars(rounds, {"by id": {"p50": 1.0, "max": 201.0}}, 0)["bars"]
    assert [bar["met"] for bar in bars.values()] == [False, True, False]


@pytest.mark.usefixtures("nearby")
def test_a_request_that_is_not_answered_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "texts", lambda pool, count, seed: ["sums " * 100] * count)  # of 64 tokens at most
    with pytest.raises(EngineError, match="not every request was answered"):
        measure_tracing(read_pool(str(echo_pool(tmp_path))), TracingLoad(1, 2, 2))
