from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import symmoe.training.reward
from symmoe.bench.scoring import Remembering
from symmoe.build_scorer import build_scorer
from symmoe.config import read_pool
from symmoe.errors import ConfigError
from symmoe.scoring.heads import load_heads
from symmoe.scoring.small import GateRecipe
from symmoe.scoring.states import HiddenStates
from symmoe.scoring.weighing import RewardScorer
from symmoe.training.rated import SETTINGS, Field, cut, material
from symmoe.training.reward import FitRecipe, Fitted, Training, contest, fit, make, plain, unseen
from symmoe.types import Assignment, Query, Recruitment, Reward, Verdict
from tests.conftest import echo_pool
from tests.fakes import candidate, query, question
from tests.training.made import Reader, always, field


def outvoted(count: int) -> Field:
    """The right answer is one expert's of three; its share is the largest."""
    asked = tuple(question(f"q {n}", "yes", ident=str(n)) for n in range(count))
    rows = tuple((candidate("a", "yes"), candidate("b", "no"), candidate("c", "no")) for _ in asked)
    shares = {"a": 0.6, "b": 0.2, "c": 0.2}
    return Field(asked, tuple(query(q.question, q.id) for q in asked), rows, (Recruitment("q", (), shares),) * count)


def test_votes_are_compared_on_the_same_candidates() -> None:
    field = outvoted(8)
    wrong = [[Verdict("a", 0, 0.0), Verdict("b", 0, 1.0), Verdict("c", 0, 0.0)]] * 8
    found = contest(field, {"wrong": wrong}, 0)
    assert {name: way["accuracy"] for name, way in found["ways"].items()} == {
        "plain_vote": 0.0,
        "profile_vote": 1.0,
        "wrong": 0.0,
        "oracle": 1.0,
    }
    assert found["ways"]["profile_vote"]["over_plain_vote"] == {"points": 100.0, "ci95": [100.0, 100.0]}
    assert found["ways"]["wrong"]["over_profile_vote"]["points"] == -100.0
    assert (found["questions"], found["candidates"]) == (8, 24)


def test_plain_votes_leave_out_what_is_no_answer() -> None:
    field = replace(outvoted(1), candidates=((candidate("a", "yes"), candidate("b", ""), candidate("c", "")),))
    assert [v.weight for v in plain(field)[0]] == [1.0, 0.0, 0.0]


class Counting:
    """Scores a text by its length, and counts the texts that it was shown."""

    shown = 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.shown += sum(map(len, candidates))
        return [[Reward(float(len(text))) for text in row] for row in candidates]


def test_every_answer_to_a_question_is_read_once() -> None:
    model = Counting()
    asked = Remembering(model)
    queries, rows = [query("one"), query("two", "r")], [["yes", "no", "yes"], ["yes"]]
    expected = [[Reward(3.0), Reward(2.0), Reward(3.0)], [Reward(3.0)]]
    assert asked.score(queries, rows) == asked.score(queries, rows) == expected
    assert model.shown == 3
    assert asked.score(queries[1:], [["maybe", "yes"]]) == [[Reward(5.0), Reward(3.0)]]
    assert model.shown == 4


def test_settings_cut_the_candidates_by_how_experts_stand() -> None:
    field = outvoted(1)
    drawn = (*field.candidates[0], *always("yes", "d"), *(candidate("a", "yes", slot) for slot in range(1, 5)))
    standing = Recruitment("q", (Assignment("q", "b", 0),), {"a": 0.5, "c": 0.2, "b": 0.2, "d": 0.1})
    cuts = cut(replace(field, candidates=(drawn,), recruitments=(standing,)))
    told = {name: [(c.expert, c.slot) for c in each.candidates[0]] for name, each in cuts.items()}
    assert told == {
        "everyone": [("a", 0), ("b", 0), ("c", 0), ("d", 0)],
        "three_experts": [("a", 0), ("b", 0), ("c", 0)],
        "two_experts_redrawn": [("a", 1), ("a", 2), ("a", 3), ("a", 4)],
        "one_expert_redrawn": [("a", 1), ("a", 2), ("a", 3)],
        "recruited": [("b", 0)],
    }
    assert set(told) == set(SETTINGS)


def test_a_setting_without_candidates_is_left_out() -> None:
    assert "one_expert_redrawn" not in cut(outvoted(2))


RECIPE = FitRecipe(strengths=(1.0, 1e6), gating=GateRecipe(hidden=(), steps=30), folds=3)


def fitted(blur: float = 0.4, seed: int = 0, recipe: FitRecipe = RECIPE) -> Fitted:
    asked = field(120, seed)
    return fit(asked, material(asked, Reader(blur)), recipe)


def test_the_better_penalty_is_chosen_by_pairs_that_were_not_seen() -> None:
    found = fitted()
    assert set(found.ranked) == {1.0, 1e6}
    assert found.strength == max(found.ranked, key=lambda strength: found.ranked[strength])
    assert found.ranked[found.strength] > 0.8


def test_choosing_by_what_had_not_seen_the_question_beats_plain_and_profile_votes() -> None:
    asked = field(120)
    known = material(asked, Reader())
    found = fit(asked, known, RECIPE)
    ways = contest(asked, {"scorer": unseen(asked, known, found)}, 0)["ways"]
    for over in ("over_plain_vote", "over_profile_vote"):
        assert ways["scorer"][over]["ci95"][0] > 0
    assert ways["oracle"]["accuracy"] >= ways["scorer"]["accuracy"]


def test_a_reader_that_sees_nothing_ranks_at_chance_when_judged_on_unseen_questions() -> None:
    assert 0.3 < max(fitted(blur=50.0).ranked.values()) < 0.7


def test_length_is_taken_out_of_the_score() -> None:
    assert abs(fitted().report.after["score"]) <= 0.03


def test_equal_data_and_seeds_give_equal_scorers_and_other_seeds_other_ones() -> None:
    crowded = replace(RECIPE, pairs=1)
    first, second, other = (fitted(recipe=replace(crowded, seed=seed)) for seed in (1, 1, 2))
    assert (first.heads.gate.layers[0][0] == second.heads.gate.layers[0][0]).all()
    assert (first.heads.weight == second.heads.weight).all()
    assert first.mixture == second.mixture
    assert np.abs(first.heads.gate.layers[0][0] - other.heads.gate.layers[0][0]).max() > 0


def test_answers_that_are_all_wrong_teach_nothing() -> None:
    asked = field(40)
    wrong = replace(asked, candidates=tuple(always(f"no {n}", "a", "b") for n in range(40)))
    with pytest.raises(ConfigError, match="every answer is wrong"):
        fit(wrong, material(wrong, Reader()), RECIPE)


QUICK = FitRecipe(strengths=(1.0,), gating=GateRecipe(hidden=(), steps=20), folds=2)
READERS = {"sharp": Reader(0.2), "blurred": Reader(20.0)}


@pytest.fixture(autouse=True)
def _readers(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(source: str, root: Path) -> HiddenStates:
        return READERS[source]

    monkeypatch.setattr(symmoe.training.reward, "backbone_states", opened)


def made(folder: Path, *backbones: str) -> Path:
    pool = read_pool(str(echo_pool(folder / "pool")))
    make(pool, field(80), "made up", Training(backbones, recipe=QUICK), folder / "scorer")
    return folder / "scorer"


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
        assert set(ways) == {"plain_vote", "profile_vote", "scorer", "reward_alone", "oracle"}
    assert about["mixture"].keys() == {"temperature", "evidence"}


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", "sharp"), made(tmp_path / "b", "sharp")
    for file in ("card.json", "heads.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_a_pool_file_that_names_the_directory_is_scored_by_it(tmp_path: Path) -> None:
    scorer = made(tmp_path, "sharp")
    pool = read_pool(str(echo_pool(tmp_path / "pool", reward={"model": str(scorer), "evidence": 0.25})))
    built = build_scorer(pool)
    assert isinstance(built, RewardScorer)
    fitted = json.loads((scorer / "card.json").read_text(encoding="utf-8"))["about"]["mixture"]
    assert built.mixture.temperature == fitted["temperature"]
    assert built.mixture.evidence == 0.25
