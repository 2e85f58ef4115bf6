from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from symmoe.errors import CheckpointError
from symmoe.scoring.armorm import ArmoRewardModel
from symmoe.scoring.artefact import CARD, WEIGHTS, save_heads
from symmoe.scoring.classifier import ClassifierRewardModel
from symmoe.scoring.heads import Floats, GatingNetwork, Heads
from symmoe.scoring.mixing import Mixture
from symmoe.scoring.model_kinds import Reading, UnopenedModel, is_small_scorer, mixture_of, open_reward_model
from symmoe.scoring.states import HiddenStates
from symmoe.types import Query, Reward
from tests.fakes import query
from tests.scoring.tiny import write_armorm, write_classifier

ABOUT = {"backbone": "package:reader", "mixture": {"temperature": 0.5, "evidence": 2.0}}


def small_scorer(directory: Path, **about: object) -> Path:
    """Scores the first number of an answer's state."""
    none = [np.zeros(1, dtype=np.float32) for _ in range(4)]  # tensors in one file may not share memory
    scorer = GatingNetwork(((np.zeros((1, 2), dtype=np.float32), none[0]),), 1.0, 1.0)
    weight = np.array([[1.0, 0.0]], dtype=np.float32)
    heads = Heads(("size",), weight, none[1], np.eye(1, dtype=np.float32), none[2], none[3], scorer)
    save_heads(heads, directory, {**ABOUT, **about})
    return directory


class Sizes:
    """A backbone whose states are the lengths of texts."""

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        rows = [(len(q.text), len(text)) for q, row in zip(queries, candidates, strict=True) for text in row]
        both = np.array(rows, dtype=np.float32).reshape(-1, 2)
        return both, both[:, ::-1].copy()


def nothing(source: str) -> HiddenStates:
    raise AssertionError("no backbone is wanted")


def test_a_small_scorer_is_read_with_the_backbone_that_its_card_names(tmp_path: Path) -> None:
    sources: list[str] = []

    def opened(source: str) -> HiddenStates:
        sources.append(source)
        return Sizes()

    model = open_reward_model(small_scorer(tmp_path / "scorer"), opened, Reading())
    assert [reward.score for reward in model.score([query("one")], [["ab", "abcd"]])[0]] == [2.0, 4.0]
    assert sources == ["package:reader"]


def test_other_directories_are_told_apart_by_their_architecture(tmp_path: Path) -> None:
    armorm, classifier = write_armorm(tmp_path / "armo"), write_classifier(tmp_path / "class")
    assert isinstance(open_reward_model(armorm, nothing, Reading(window=128)), ArmoRewardModel)
    assert isinstance(open_reward_model(classifier, nothing, Reading(window=128)), ClassifierRewardModel)
    assert not is_small_scorer(armorm)


def test_a_directory_that_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        open_reward_model(tmp_path, nothing, Reading())


def test_a_card_without_a_backbone_is_an_error(tmp_path: Path) -> None:
    scorer = small_scorer(tmp_path / "scorer", backbone=None)
    with pytest.raises(CheckpointError, match="does not say whose hidden states"):
        open_reward_model(scorer, nothing, Reading())


def test_the_mixture_is_the_one_that_was_fitted(tmp_path: Path) -> None:
    assert mixture_of(small_scorer(tmp_path / "scorer")) == Mixture(0.5, 2.0)


@pytest.mark.parametrize(
    "mixture",
    [None, {"temperature": 1.0}, {"temperature": 0.0, "evidence": 1.0}, {"temperature": 1.0, "evidence": -1.0}, "warm"],
)
def test_a_mixture_that_cannot_be_used_is_an_error(tmp_path: Path, mixture: object) -> None:
    scorer = small_scorer(tmp_path / "scorer", mixture=mixture)
    with pytest.raises(CheckpointError, match="no usable mixture"):
        mixture_of(scorer)


def test_an_altered_scorer_is_refused(tmp_path: Path) -> None:
    scorer = small_scorer(tmp_path / "scorer")
    (scorer / WEIGHTS).write_bytes((scorer / WEIGHTS).read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="the file was altered"):
        open_reward_model(scorer, nothing, Reading())


def test_a_card_of_another_size_than_the_tensors_is_refused(tmp_path: Path) -> None:
    scorer = small_scorer(tmp_path / "scorer")
    card = json.loads((scorer / CARD).read_text(encoding="utf-8"))
    (scorer / CARD).write_text(json.dumps(card | {"answer_width": 3}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"regression_layer.weight is \(1, 2\), where \(1, 3\) fits"):
        open_reward_model(scorer, nothing, Reading())


def test_a_model_is_opened_when_it_is_first_asked_and_once() -> None:
    opened: list[int] = []

    class Constant:
        def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
            return [[Reward(1.0) for _ in row] for row in candidates]

    def opening() -> Constant:
        opened.append(1)
        return Constant()

    model = UnopenedModel(opening)
    assert opened == []
    assert model.score([query("one")], [["yes"]]) == model.score([query("one")], [["yes"]]) == [[Reward(1.0)]]
    assert opened == [1]
