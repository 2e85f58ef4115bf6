"""Experts swapped in place in vLLM on a GPU, against an engine that was started for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.loading.merge import merged_weights
from symmoe.types import Call, Message, Query, Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = (
    "Turn this into a JSON record: Emma works as a farmer and lives in Oslo.",
    "Spell the call sign Q T B in the radio alphabet.",
    "What is the capital of France?",
)


@pytest.fixture(scope="module")
def pool() -> Pool:
    """The starter pool with its adapters merged, so that a change of expert is a swap."""
    pytest.importorskip("vllm")
    starter = read_pool("tiny")
    engine = starter.engine.model_copy(update={"adapters": "merge", "gpu_memory_utilization": 0.4})
    return starter.model_copy(update={"engine": engine})


@pytest.fixture
def assembly(pool: Pool) -> Iterator[Assembly]:
    running = Assembly(pool)
    yield running
    running.close()


def answers(assembly: Assembly) -> list[str]:
    """What the weights in the engine answer, greedily, one prompt at a time: batching may change the last bit."""
    given = []
    for prompt in PROMPTS:
        call = Call("any", Query("q", (Message("user", prompt),), Sampling(32)), ())
        given += [generation.text for _, generation in assembly.engine.generate([call])]
    return given


def checkpoint_of(assembly: Assembly, expert: str, directory: Path) -> str:
    """The expert as a checkpoint of its own, which an engine can be started on with nothing to swap."""
    weights = assembly.weights(expert)
    shutil.copytree(weights.model, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(dict(merged_weights(weights.model, weights.adapter)), directory / "model.safetensors")
    return str(directory)


def test_a_swapped_expert_answers_as_in_an_engine_that_was_started_on_it(assembly: Assembly, tmp_path: Path) -> None:
    assembly.loader.start("generalist")
    base = answers(assembly)
    swapped = {}
    for expert in ("json", "radio"):
        load = assembly.loader.ready(expert)
        assert load.lane == "merged", load.reason
        assert load.bytes > 0
        swapped[expert] = answers(assembly)
    assert swapped["json"][0] == '{"name": "Emma", "job": "farmer", "city": "Oslo"}'
    assert swapped["radio"][1] == "Quebec Tango Bravo"
    assembly.loader.ready("generalist")
    assert answers(assembly) == base
    for expert in ("json", "radio"):
        merged = checkpoint_of(assembly, expert, tmp_path / expert)
        assembly.engine.start(merged, assembly.images.tags(merged))
        assert answers(assembly) == swapped[expert]


def test_a_prompt_that_one_expert_cached_is_not_served_to_the_next(assembly: Assembly) -> None:
    assembly.loader.start("generalist")
    assembly.loader.ready("radio")
    radio = answers(assembly)
    assembly.loader.ready("json")
    assert answers(assembly) != radio
    assembly.loader.ready("radio")
    assert answers(assembly) == radio
