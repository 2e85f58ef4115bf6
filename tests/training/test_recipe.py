from __future__ import annotations

from pathlib import Path

import pytest

from symmoe.errors import RecipeError
from symmoe.training.lora import data_hash, training_questions
from symmoe.training.recipe import Recipe, read_recipe

GOOD = "name: tiny\ndescription: d\ntasks: [radio]\nseed: 1\nsteps: 3\nbatch_size: 4\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "colour: red\n", "colour"),
        (GOOD.replace("radio", "juggling"), "juggling"),
        (GOOD.replace("steps: 3", "steps: 0"), "steps"),
        (GOOD.replace("seed: 1", "seed: 5000000"), "seed"),
        ("name: [", "not YAML"),
        ("- a list\n", "recipe.yaml"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_file_and_its_fault(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=said) as raised:
        read_recipe(path)
    assert str(path) in str(raised.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere"):
        read_recipe(tmp_path / "nowhere.yaml")


def test_equal_recipes_train_on_equal_questions_and_other_seeds_on_others() -> None:
    recipe = Recipe(name="t", description="d", tasks=["radio", "roman"], seed=1, steps=5, batch_size=4)
    other = recipe.model_copy(update={"seed": 2})
    questions = training_questions(recipe)
    assert len(questions) == 20
    assert data_hash(questions) == data_hash(training_questions(recipe))
    assert data_hash(questions) != data_hash(training_questions(other))


def test_a_family_that_runs_dry_is_gone_through_again() -> None:
    recipe = Recipe(name="t", description="d", tasks=["spanish"], seed=1, steps=100, batch_size=16)
    questions = training_questions(recipe)
    assert len(questions) == 1600
    assert len({question.question for question in questions}) < 1000
