from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.bench.loading import Workload, steps_of
from symmoe.bench.unlike import ARCHITECTURES, random_model, unlike_pool
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.loading.packed.layout import Layout

TINY = read_pool("tiny")


def test_a_made_model_is_small_and_speaks_with_the_tokenizer_that_it_was_given(tmp_path: Path) -> None:
    base = Assembly(TINY).weights("generalist").model
    made = {each: random_model(each, base, tmp_path / each) for each in ARCHITECTURES}
    config = {each: json.loads((folder / "config.json").read_text()) for each, folder in made.items()}
    assert {each: found["model_type"] for each, found in config.items()} == {each: each for each in ARCHITECTURES}
    assert all((folder / "model.safetensors").stat().st_size < 80e6 for folder in made.values())
    assert all(
        (folder / "tokenizer.json").read_bytes() == (Path(base) / "tokenizer.json").read_bytes()
        for folder in made.values()
    )
    shapes = {Layout.of(str(folder), None).manifest.fingerprint for folder in (Path(base), *made.values())}
    assert len(shapes) == 3


def test_five_experts_have_four_models_and_every_one_is_asked(tmp_path: Path) -> None:
    other = random_model("qwen3", Assembly(TINY).weights("generalist").model, tmp_path / "other")
    pool = unlike_pool(TINY, other, tmp_path / "made")
    assert len(pool.experts) == 5
    assert len({expert.model for expert in pool.experts}) == 4
    steps = steps_of(pool, Workload(5, per_family=2, k=3, seed=0)).steps
    assert sorted(step.expert for step in steps) == sorted(pool.names)
    assert [step.expert for step in steps[:2]] == ["generalist", "arithmetic"]


def test_a_pool_of_one_model_needs_another_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="one model only") as refused:
        unlike_pool(TINY, None, tmp_path)
    assert "--model" in str(refused.value.hint)
