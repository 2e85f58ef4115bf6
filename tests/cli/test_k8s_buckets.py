"""A pool whose weights are in buckets, on a server that speaks S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pyarrow.fs import S3FileSystem

from symmoe.build import Assembly
from symmoe.config import read_pool, shipped_pool
from tests.cli.conftest import Symmoe

CONFIG = {
    "model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576,
    "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.slow
def test_a_pool_whose_weights_are_in_a_bucket_is_sized_and_fetched(
    s3: S3FileSystem, symmoe_command: Symmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMMOE_CACHE", str(tmp_path / "cache"))
    adapter = shipped_pool("tiny").parent / "adapters" / "roman"
    s3.create_dir("models")
    objects = {"base/config.json": json.dumps(CONFIG).encode(), "base/model.safetensors": b"\0" * (20 << 20)}
    objects |= {f"roman/{file.name}": file.read_bytes() for file in adapter.iterdir() if file.is_file()}
    for name, data in objects.items():
        with s3.open_output_stream(f"models/{name}") as stream:
            stream.write(data)
    experts = [
        {"name": "plain", "model": "s3://models/base"},
        {"name": "roman", "model": "s3://models/base", "adapter": "s3://models/roman"},
        {"name": "lost", "model": "s3://models/none"},
    ]
    pool = tmp_path / "pool.yaml"
    pool.write_text(yaml.safe_dump({"name": "own", "experts": experts[:2]}))
    assert symmoe_command("k8s", "render", "--pool", pool, "--out", tmp_path / "out").code == 0
    made = (tmp_path / "out" / "manifests.yaml").read_text()
    assert "adapter: s3://models/roman" in made
    pool.write_text(yaml.safe_dump({"name": "own", "experts": experts}))
    said = symmoe_command("k8s", "fetch", "--pool", pool, "--leave-out", "--json")
    assert said.code == 0
    assert "lost" in said.json["missing"]
    weights = Assembly(read_pool(str(pool))).weights("roman")
    assert (Path(weights.model) / "model.safetensors").stat().st_size == 20 << 20
    assert weights.adapter is not None
    assert {file.name for file in Path(weights.adapter).iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
