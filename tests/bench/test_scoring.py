from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import symmoe.build
from symmoe.aggregation.calibration import Settled
from symmoe.aggregation.consensus import NEVER, Thresholds
from symmoe.bench.scoring import always_aggregated, outcome, plot_sweep, skipping
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.training.answers import Drawing, gather
from symmoe.training.reward import plain
from symmoe.types import Consensus
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question


def records(count: int, seed: int = 0) -> list[Settled]:
    """The vote is right where experts agree; elsewhere the synthesis is right and the vote mostly wrong."""
    rng = np.random.default_rng(seed)
    agree = rng.random(count) < 0.6
    return [
        Settled(
            Consensus(1.0 if sure else 1 / 3, 0.9 if sure else 0.1, 1.0, 3),
            float(sure or rng.random() < 0.2),
            1.0,
        )
        for sure in agree
    ]


def test_a_rule_fitted_on_validation_skips_where_experts_agree_and_loses_nothing_on_new_questions() -> None:
    found = skipping(records(300), records(300, seed=1), 0.5, 0)
    assert 0.5 < found["held_out"]["skipped"] < 0.7
    assert found["held_out"]["loss"] == 0.0
    assert found["held_out"]["accuracy"] == found["held_out"]["always_aggregated"] == 1.0
    assert found["held_out"]["never_aggregated"] < 0.8


def test_the_sweep_goes_from_skipping_all_to_skipping_what_is_sure() -> None:
    rows = skipping(records(300), records(300, seed=1), 0.5, 0)["sweep"]["share"]
    assert [rows[0]["skipped"], rows[0]["accuracy"]] == [1.0, rows[0]["never_aggregated"]]
    skipped = [row["skipped"] for row in rows]
    assert skipped == sorted(skipped, reverse=True)
    assert rows[-1]["loss"] == 0.0


def test_a_rule_that_is_never_reached_loses_nothing_and_skips_nothing() -> None:
    told = outcome(records(50), NEVER, 0)
    assert (told["skipped"], told["loss"], told["ci95"]) == (0.0, 0.0, [0.0, 0.0])


def test_the_loss_of_skipping_all_is_what_the_vote_is_behind() -> None:
    told = outcome(records(200), Thresholds(0.0, -1.0, 0.0, 1), 0)
    assert told["loss"] == pytest.approx(100 * (1.0 - told["never_aggregated"]), abs=0.01)
    assert told["ci95"][0] < told["loss"] < told["ci95"][1]


def test_every_question_is_voted_on_and_synthesised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    pool = echo_pool(tmp_path / "pool", engine={"max_model_len": 2000})
    assembly = Assembly(read_pool(str(pool)))
    asked = [question(f"sums {n}", "adder: sums 0", ident=str(n)) for n in range(3)]
    field = gather(assembly, asked, Drawing(draws=0))
    told, failed = always_aggregated(assembly, field, plain(field), "sorter", 0)
    assert [record.vote for record in told] == [1.0, 0.0, 0.0]
    assert [record.consensus.opinions for record in told] == [3, 3, 3]
    assert failed == 3  # an echo repeats its prompt, which is no synthesis: the vote stands
    assert [record.synthesis for record in told] == [record.vote for record in told]


def test_a_sweep_is_drawn(tmp_path: Path) -> None:
    plot_sweep(skipping(records(100), records(100, seed=1), 0.5, 0), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
