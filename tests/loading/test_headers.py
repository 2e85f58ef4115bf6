from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from symmoe.errors import CheckpointError
from symmoe.loading.headers import INDEX, FileState, stored_tensors, weight_files


def test_a_tensor_lies_where_its_header_says(base: Path) -> None:
    files = weight_files(base)
    stored = stored_tensors(files)
    assert set(stored) == {"model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"}
    norm = stored["model.norm.weight"]
    content = norm.file.read_bytes()[norm.offset : norm.offset + norm.nbytes]
    assert torch.equal(torch.frombuffer(bytearray(content), dtype=torch.bfloat16), torch.ones(4).bfloat16())
    assert (norm.dtype, norm.shape) == ("BF16", (4,))


def test_without_an_index_every_file_counts_and_with_one_those_that_it_names(base: Path) -> None:
    save_file({"other": torch.ones(1)}, base / "consolidated.safetensors")
    assert len(weight_files(base)) == 3
    named = "model-00001-of-00002.safetensors"
    (base / INDEX).write_text(json.dumps({"weight_map": {"a": named, "b": named}}), encoding="utf-8")
    assert [file.name for file in weight_files(base)] == [named]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors: named by"),
        ('{"weight_map": {"a": "../base/model-00001-of-00002.safetensors"}}', "named by"),
        ('{"weight_map": {}}', "no safetensors"),
        ('{"weight_map": {"a": []}}', "not an index"),
        ("{}", "not an index"),
        ("[]", "not an index"),
        ("{", "not an index"),
    ],
)
def test_an_index_that_is_not_true_is_refused(base: Path, index: str, says: str) -> None:
    (base / INDEX).write_text(index, encoding="utf-8")
    with pytest.raises(CheckpointError, match=says):
        weight_files(base)


def test_a_directory_without_weights_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path)) + ": no safetensors"):
        weight_files(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), flip=st.integers(1, 255), kept=st.integers(0, 400))
def test_a_corrupt_or_cut_file_is_refused_or_read_within_its_bounds(
    tmp_path: Path, at: int, flip: int, kept: int
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 5), "b": torch.ones(7).bfloat16()}, file)
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= flip
    for damaged in (content, content[: kept % len(content)]):
        file.write_bytes(damaged)
        stored = {}
        with suppress(CheckpointError):
            stored = stored_tensors([file])
        assert all(0 <= each.offset <= each.offset + each.nbytes <= len(damaged) for each in stored.values())


def test_a_file_is_another_one_once_it_is_written_again(base: Path) -> None:
    file = weight_files(base)[0]
    before = FileState.of(file)
    assert FileState.of(file) == before
    content = file.read_bytes()
    file.unlink()
    (base / "placeholder").touch()
    file.write_bytes(content)
    assert FileState.of(file) != before
    with pytest.raises(CheckpointError, match="cannot be read"):
        FileState.of(base / "none")
