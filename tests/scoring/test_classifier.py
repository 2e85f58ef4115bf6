from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from symmoe.errors import CheckpointError
from symmoe.scoring.classifier import load_classifier
from symmoe.types import Message, Reward
from tests.scoring.tiny import CONVERSATIONS, tokenizer, without, write_armorm, write_classifier

QUERIES, ANSWERS = [q for q, _ in CONVERSATIONS], [list(answers) for _, answers in CONVERSATIONS]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier") / "model")


def as_its_card_says(directory: Path) -> list[list[float]]:
    """The logits of one conversation after another, rendered whole by the chat template."""
    model = LlamaForSequenceClassification.from_pretrained(directory).eval()
    words = tokenizer()
    rows = []
    for query, answers in CONVERSATIONS:
        row = []
        for answer in answers:
            turns = [{"role": m.role, "content": m.content} for m in (*query.messages, Message("assistant", answer))]
            ids = words(words.apply_chat_template(turns, tokenize=False), add_special_tokens=False).input_ids
            with torch.no_grad():
                row.append(model(torch.tensor([ids])).logits[0, 0].item())
        rows.append(row)
    return rows


@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_scores_are_the_models_logits_padded_or_not(checkpoint: Path, budget: int) -> None:
    rewards = load_classifier(checkpoint, budget=budget).score(QUERIES, ANSWERS)
    for row, expected in zip(rewards, as_its_card_says(checkpoint), strict=True):
        assert [reward.score for reward in row] == pytest.approx(expected, abs=1e-4)
    assert rewards[0][0] == Reward(rewards[0][0].score)


def test_a_model_without_a_padding_token_scores_one_at_a_time(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "model", pad_token_id=None)
    rewards = load_classifier(directory).score(QUERIES, ANSWERS)
    for row, expected in zip(rewards, as_its_card_says(directory), strict=True):
        assert [reward.score for reward in row] == pytest.approx(expected, abs=1e-4)


def test_a_model_that_pads_with_its_end_of_turn_scores_alike_padded_or_not(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "model", pad_token_id=tokenizer().eos_token_id)
    alone = load_classifier(directory, budget=1).score(QUERIES, ANSWERS)
    together = load_classifier(directory).score(QUERIES, ANSWERS)
    assert [r.score for row in together for r in row] == pytest.approx(
        [r.score for row in alone for r in row], abs=1e-4
    )


def test_answers_that_cannot_be_judged_have_no_score(checkpoint: Path) -> None:
    rewards = load_classifier(checkpoint, window=70).score([QUERIES[0]], [["", "5", "word " * 80, "5 \udfff"]])[0]
    assert [reward.score is None for reward in rewards] == [True, False, False, False]
    assert rewards[0].note == "empty answer"
    assert "tokens were read" in rewards[2].note


def test_a_score_that_is_not_finite_is_none(checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "overflowing"
    shutil.copytree(checkpoint, directory)
    weights = load_file(directory / "model.safetensors")
    weights["score.weight"].fill_(torch.finfo(torch.float32).max)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    model = load_classifier(directory)
    assert model.score([QUERIES[0]], [["5"]])[0][0] == Reward(None, note="the model's score is not finite")


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a classifier of 3 labels"):
        load_classifier(write_classifier(tmp_path / "model", labels=3))


def test_a_language_model_that_was_not_trained_to_score_is_refused(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "model")
    without(directory / WEIGHTS, "score.weight")
    with pytest.raises(CheckpointError, match=r"the first is score\.weight"):
        load_classifier(directory)


def test_an_armorm_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the first is score\.weight"):
        load_classifier(write_armorm(tmp_path / "model"))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "model")
    tensors = load_file(directory / WEIGHTS)
    tensors["score.weight"][0, 3] = torch.nan
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"score\.weight holds NaN"):
        load_classifier(directory)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        load_classifier(write_classifier(tmp_path / "model", template=None))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_classifier(tmp_path / "nowhere")
