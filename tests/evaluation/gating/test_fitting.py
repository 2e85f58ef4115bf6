from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from symmoe.errors import ConfigError
from symmoe.evaluation.gating.contest import contest
from symmoe.evaluation.gating.fitting import FitRecipe, Fitted, fit
from symmoe.evaluation.gating.material import material
from symmoe.evaluation.gating.training import unseen
from symmoe.gating.preference import GateRecipe
from tests.evaluation.gating.made import Reader, always, field

RECIPE = FitRecipe(strengths=(1.0, 1e6), gate=GateRecipe(hidden=(), steps=30), folds=3)


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
    ways = contest(asked, {"gate": unseen(asked, known, found)}, 0)["ways"]
    for over in ("over_plain_vote", "over_profile_vote"):
        assert ways["gate"][over]["ci95"][0] > 0
    assert ways["oracle"]["accuracy"] >= ways["gate"]["accuracy"]


def test_a_reader_that_sees_nothing_ranks_at_chance_when_judged_on_unseen_questions() -> None:
    assert 0.3 < max(fitted(blur=50.0).ranked.values()) < 0.7


def test_length_is_taken_out_of_the_score() -> None:
    assert abs(fitted().report.after["score"]) <= 0.03


def test_equal_data_and_seeds_give_equal_gates_and_other_seeds_other_ones() -> None:
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
