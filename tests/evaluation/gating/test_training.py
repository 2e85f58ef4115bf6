from __future__ import annotations

import json
from pathlib import Path

import pytest

import symmoe.evaluation.gating.training
from symmoe.build_gate import build_gate
from symmoe.config import read_pool
from symmoe.evaluation.gating.fitting import FitRecipe
from symmoe.evaluation.gating.training import Training, make
from symmoe.gating.artefact import load_heads
from symmoe.gating.preference import GateRecipe
from symmoe.gating.rewards import RewardGate
from symmoe.gating.states import HiddenStates
from tests.conftest import echo_pool
from tests.evaluation.gating.made import Reader, field

RECIPE = FitRecipe(strengths=(1.0,), gate=GateRecipe(hidden=(), steps=20), folds=2)
READERS = {"sharp": Reader(0.2), "blurred": Reader(20.0)}


@pytest.fixture(autouse=True)
def _readers(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(source: str, root: Path) -> HiddenStates:
        return READERS[source]

    monkeypatch.setattr(symmoe.evaluation.gating.training, "backbone_states", opened)


def made(folder: Path, *backbones: str) -> Path:
    pool = read_pool(str(echo_pool(folder / "pool")))
    make(pool, field(80), "made up", Training(backbones, recipe=RECIPE), folder / "gate")
    return folder / "gate"


def test_the_backbone_that_ranks_unseen_answers_best_is_kept_and_all_are_told(tmp_path: Path) -> None:
    _, card = load_heads(made(tmp_path, "blurred", "sharp"))
    about = card["about"]
    assert about["backbone"] == "sharp"
    told = {name: shares["1"] for name, shares in about["ranked_right_unseen"].items()}
    assert told["sharp"] > 0.9 > 0.7 > told["blurred"]


def test_the_card_tells_data_seeds_and_figures(tmp_path: Path) -> None:
    about = json.loads((made(tmp_path, "sharp") / "card.json").read_text(encoding="utf-8"))["about"]
    assert (about["pool"], about["source"], about["questions"]) == ("echoes", "made up", 80)
    assert about["recipe"]["seed"] == about["drawing"]["seed"] == 0
    assert abs(about["fit"]["after"]["score"]) <= 0.03
    assert about["fit"]["rated"]["correctness"] == about["answers"]
    assert set(about["choosing_unseen"]) == {"everyone", "three_experts", "recruited"}
    for ways in about["choosing_unseen"].values():
        assert set(ways) == {"plain_vote", "profile_vote", "gate", "reward_alone", "oracle"}
    assert about["mixture"].keys() == {"temperature", "evidence"}


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", "sharp"), made(tmp_path / "b", "sharp")
    for file in ("card.json", "heads.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_a_pool_file_that_names_the_directory_is_gated_by_it(tmp_path: Path) -> None:
    gate = made(tmp_path, "sharp")
    pool = read_pool(str(echo_pool(tmp_path / "pool", reward={"model": str(gate), "evidence": 0.25})))
    built = build_gate(pool)
    assert isinstance(built, RewardGate)
    fitted = json.loads((gate / "card.json").read_text(encoding="utf-8"))["about"]["mixture"]
    assert built.mixture.temperature == fitted["temperature"]
    assert built.mixture.evidence == 0.25
