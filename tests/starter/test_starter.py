"""The starter pool as shipped: what its cards say is true of its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.build import Assembly, check_weights
from symmoe.config import Pool, read_pool
from symmoe.questions.families import FAMILIES
from symmoe.training.lora import data_hash, training_questions
from symmoe.training.recipe import read_recipe

STARTER = read_pool("starter")
ADAPTED = [expert for expert in STARTER.experts if expert.adapter]
MEGABYTE = 1_000_000


def _directory(name: str) -> Path:
    adapter = STARTER.expert(name).adapter
    assert adapter is not None
    return STARTER.path(adapter)


def test_every_local_file_of_the_starter_pool_verifies() -> None:
    assert check_weights(STARTER) == []


def test_there_are_a_generalist_and_at_least_eight_specialists() -> None:
    assert "generalist" in STARTER.names
    assert len(ADAPTED) >= 8


def test_adapters_are_small_enough_to_ship() -> None:
    sizes = [(_directory(e.name) / "adapter_model.safetensors").stat().st_size for e in ADAPTED]
    assert max(sizes) <= 5 * MEGABYTE
    assert sum(sizes) <= 40 * MEGABYTE


@pytest.mark.parametrize("name", [expert.name for expert in ADAPTED])
def test_a_card_holds_the_recipe_it_was_trained_by_and_a_measured_accuracy(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    recipe = read_recipe(STARTER.root / "recipes" / f"{name}.yaml")
    assert card["recipe"] == recipe.model_dump()
    assert 0 <= card["accuracy"]["own"] <= 1
    assert card["accuracy"]["split"] == "test"


@pytest.mark.parametrize("name", ["radio", "roman", "spanish"])
def test_a_recipe_draws_the_very_data_that_its_card_records(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    assert data_hash(training_questions(read_recipe(STARTER.root / "recipes" / f"{name}.yaml"))) == card["data_sha256"]


def test_profiles_tell_each_specialist_from_the_generalist_on_its_own_family() -> None:
    profiles = Assembly(STARTER).profiles()
    generalist = profiles["generalist"]
    for expert in ADAPTED:
        best = max(profiles[expert.name].scores.items(), key=lambda item: item[1])
        assert best[1] > generalist.scores.get(best[0], 0), expert.name


def test_every_family_of_the_demo_has_a_specialist() -> None:
    assert set(FAMILIES) <= {expert.name for expert in ADAPTED}


@pytest.mark.parametrize(("preset", "experts"), [("symbolic-moe-16", 16), ("small-2026", 7)])
def test_presets_check_without_a_download(preset: str, experts: int) -> None:
    pool: Pool = read_pool(preset)
    notes = check_weights(pool)
    assert sum("was not downloaded" in note for note in notes) == experts
