from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from symmoe.errors import CheckpointError
from symmoe.scoring.artefact import CARD, WEIGHTS, load_heads, save_heads
from symmoe.scoring.heads import GatingNetwork, Heads
from symmoe.scoring.tensors import to_tensors


def heads(seed: int = 0, prompt: int = 5, answer: int = 7) -> Heads:
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    gate = GatingNetwork(((numbers(4, prompt), numbers(4)), (numbers(3, 4), numbers(3))), 2.5, float(np.float32(1.3)))
    return Heads(("a", "b", "length"), numbers(3, answer), numbers(3), numbers(3, 3), numbers(3), numbers(3), gate)


def test_what_was_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    saved = heads()
    card = save_heads(saved, tmp_path / "gate", {"recipe": {"seed": 3}})
    loaded, read = load_heads(tmp_path / "gate")
    before, after = to_tensors(saved), to_tensors(loaded)
    assert list(before) == list(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert loaded.objectives == saved.objectives
    assert (loaded.gate.temperature, loaded.gate.scale) == (saved.gate.temperature, saved.gate.scale)
    assert read == card
    assert read["about"] == {"recipe": {"seed": 3}}
    states = np.ones((2, 5), dtype=np.float32), np.ones((2, 7), dtype=np.float32)
    assert loaded.rewards(*states) == saved.rewards(*states)


def test_equal_heads_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_heads(heads(), tmp_path / name, {})
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_heads_that_do_not_fit_each_other_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"reward_transform_matrix is \(2, 2\), where \(3, 3\) fits"):
        save_heads(replace(heads(), transform=np.eye(2, dtype=np.float32)), tmp_path / "gate", {})
    with pytest.raises(CheckpointError, match="score_penalty holds NaN"):
        save_heads(replace(heads(), penalty=np.full(3, np.nan, dtype=np.float32)), tmp_path / "gate", {})
    assert not (tmp_path / "gate").exists()


def recorded(directory: Path, **changed: Any) -> None:
    card = json.loads((directory / CARD).read_text(encoding="utf-8"))
    (directory / CARD).write_text(json.dumps(card | changed), encoding="utf-8")


def resized(directory: Path) -> None:
    """The weights of a gate on other states, under a card that vouches for them."""
    save_heads(heads(answer=8), directory, {})
    recorded(directory, answer_width=7)


def altered(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors["score_penalty"][0] += 1
    save_file(tensors, directory / WEIGHTS)


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (resized, r"regression_layer.weight is \(3, 8\), where \(3, 7\) fits"),
    (altered, "the file was altered"),
    (lambda directory: (directory / WEIGHTS).unlink(), "but not there"),
    (lambda directory: (directory / CARD).unlink(), "cannot be read"),
    (lambda directory: (directory / CARD).write_text("[]") and None, "not a JSON object"),
    (lambda directory: recorded(directory, format=9), "format 9; this version reads 1"),
    (lambda directory: recorded(directory, objectives=["a", "b"]), r"where \(2, 7\) fits"),
    (lambda directory: recorded(directory, prompt_width=6), r"gating.layers.0.weight is \(4, 5\), where \(4, 6\)"),
    (lambda directory: recorded(directory, prompt_width=None), "not the card of a gate"),
    (lambda directory: recorded(directory, temperature=-1), "temperature is -1.0"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_spoilt_artefact_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    save_heads(heads(), tmp_path, {})
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_heads(tmp_path)
