from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from symmoe.errors import CheckpointError
from symmoe.scoring.heads import CARD, WEIGHTS, Floats, GatingNetwork, Heads, save_heads
from symmoe.scoring.reward_models import (
    OBJECTIVES,
    ArmoRewardModel,
    ClassifierRewardModel,
    Reading,
    UnopenedModel,
    is_small_scorer,
    load_armorm,
    load_armorm_heads,
    load_classifier,
    mixture_of,
    open_reward_model,
)
from symmoe.scoring.states import HiddenStates
from symmoe.scoring.weighing import Mixture
from symmoe.types import Message, Query, Reward
from tests.fakes import query
from tests.scoring.reference import judged
from tests.scoring.tiny import CONVERSATIONS, HIDDEN, armorm_tensors, tokenizer, without, write_armorm, write_classifier

QUERIES, ANSWERS = [q for q, _ in CONVERSATIONS], [list(answers) for _, answers in CONVERSATIONS]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_armorm(tmp_path_factory.mktemp("armorm") / "model")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ArmoRewardModel:
    return load_armorm(checkpoint)


def near(reward: Reward, other: Reward) -> bool:
    numbers = [(reward.score, other.score)]
    for name in OBJECTIVES:
        numbers += [(reward.objectives[name], other.objectives[name]), (reward.weights[name], other.weights[name])]
    return all(abs((left or 0.0) - (right or 0.0)) <= TOLERANCE for left, right in numbers)


def test_rewards_gating_and_score_are_those_of_the_independent_reference(model: ArmoRewardModel) -> None:
    rewards, expected = model.score(QUERIES, ANSWERS), judged(armorm_tensors(), CONVERSATIONS)
    for reward, reference in zip(chain(*rewards), chain(*expected), strict=True):
        assert list(reward.objectives) == list(reward.weights) == list(OBJECTIVES)
        assert list(reward.objectives.values()) == pytest.approx(reference.rewards, abs=TOLERANCE)
        assert list(reward.weights.values()) == pytest.approx(reference.gating, abs=TOLERANCE)
        assert reward.score == pytest.approx(reference.score, abs=TOLERANCE)


def test_answers_are_told_apart(model: ArmoRewardModel) -> None:
    scores = [r.score or 0.0 for row in model.score(QUERIES, ANSWERS) for r in row]
    assert min(abs(a - b) for place, a in enumerate(scores) for b in scores[:place]) > 100 * TOLERANCE


@pytest.mark.parametrize("budget", [1, 150, 100_000])
def test_padding_changes_nothing(checkpoint: Path, budget: int) -> None:
    batched = load_armorm(checkpoint, budget=budget).score(QUERIES, ANSWERS)
    alone = load_armorm(checkpoint)
    for asked, answers, row in zip(QUERIES, ANSWERS, batched, strict=True):
        for answer, reward in zip(answers, row, strict=True):
            assert near(alone.score([asked], [[answer]])[0][0], reward)


def test_the_gate_depends_on_the_prompt_alone(model: ArmoRewardModel) -> None:
    first, second, _ = model.score(QUERIES, ANSWERS)
    assert list(first[0].weights.values()) == pytest.approx(list(first[2].weights.values()), abs=1e-6)
    assert max(abs(first[0].weights[name] - second[0].weights[name]) for name in OBJECTIVES) > 0.01


def test_unreadable_answers_have_no_score_and_spoil_no_other(model: ArmoRewardModel) -> None:
    rewards = model.score([QUERIES[0]], [["", ANSWERS[0][0], "\ud800 lone", "word " * 200]])[0]
    assert rewards[0] == Reward(None, note="empty answer")
    assert near(rewards[1], model.score(QUERIES, ANSWERS)[0][0])
    assert rewards[2].score is not None
    assert rewards[3].score is not None
    assert "tokens were read" in rewards[3].note


def test_nothing_asked_is_nothing_answered(model: ArmoRewardModel) -> None:
    assert model.score([], []) == []
    assert model.score([query("Hi")], [[]]) == [[]]


def test_code_that_comes_with_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    directory, trace = write_armorm(tmp_path / "model"), tmp_path / "was-run"
    for name in ("modeling_custom.py", "configuration_custom.py", "tokenization_custom.py"):
        (directory / name).write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    assert load_armorm(directory).score(QUERIES, ANSWERS)[0][0].score is not None
    assert not trace.exists()


def test_half_precision_weights_give_nearly_the_same_score(tmp_path: Path, model: ArmoRewardModel) -> None:
    halved = {name: tensor.bfloat16() for name, tensor in armorm_tensors().items() if name.startswith("model.")}
    low = load_armorm(write_armorm(tmp_path / "model", halved, dtype="bfloat16")).score(QUERIES, ANSWERS)
    high = load_armorm(tmp_path / "model", precision="float32").score(QUERIES, ANSWERS)
    assert [r.score for row in low for r in row] == pytest.approx([r.score for row in high for r in row], abs=0.5)
    assert low != high


def test_a_checkpoint_of_another_number_of_objectives_names_them_by_place(tmp_path: Path) -> None:
    tensors = armorm_tensors()
    changed = {
        "regression_layer.weight": tensors["regression_layer.weight"][:3],
        "reward_transform_matrix": torch.eye(3),
        "gating.layers.3.weight": tensors["gating.layers.3.weight"][:3],
        "gating.layers.3.bias": tensors["gating.layers.3.bias"][:3],
    }
    heads = load_armorm_heads(write_armorm(tmp_path / "model", changed, num_objectives=3))
    assert heads.objectives == ("objective-0", "objective-1", "objective-2")


NAN = torch.full((19,), float("nan"))
FAULTS: list[tuple[dict[str, torch.Tensor | None], dict[str, Any], str]] = [
    ({"regression_layer.weight": None}, {}, "regression_layer.weight is missing"),
    ({"reward_transform_matrix": None}, {}, "reward_transform_matrix is missing"),
    ({"gating.layers.2.bias": None}, {}, "gating.layers.2.bias is missing"),
    ({"gating.logit_scale": None}, {}, "gating.logit_scale is missing"),
    ({"model.layers.1.mlp.up_proj.weight": None}, {}, "1 tensors are missing, the first is .*up_proj"),
    ({"regression_layer.weight": torch.ones(19, 16)}, {}, r"regression_layer.weight is \(19, 16\), where \(19, 32\)"),
    ({"reward_transform_matrix": torch.eye(18)}, {}, r"reward_transform_matrix is \(18, 18\)"),
    ({"gating.layers.0.weight": torch.ones(16, 64)}, {}, r"gating.layers.0.weight is \(16, 64\), where \(16, 32\)"),
    ({"gating.layers.1.weight": torch.ones(16, 17)}, {}, r"gating.layers.1.weight is \(16, 17\)"),
    ({"gating.layers.1.running_mean": torch.ones(16)}, {}, "gating.layers.1.running_mean is no part"),
    ({"gating.layers.3.bias": NAN}, {}, "gating.layers.3.bias holds NaN"),
    ({"model.norm.weight": torch.full((HIDDEN,), torch.inf)}, {}, "norm.weight holds NaN or infinite"),
    ({"model.norm.weight": torch.ones(8)}, {}, "cannot be loaded"),
    ({}, {"num_objectives": 20}, r"where \(20, 32\) fits"),
    ({}, {"gating_n_hidden": 2}, "config.json has gating_n_hidden 2, the tensors have 3"),
    ({}, {"gating_hidden_dim": 1024}, "config.json has gating_hidden_dim 1024, the tensors have 16"),
    ({}, {"gating_temperature": 0}, "temperature is 0.0, which is not above 0"),
    ({}, {"gating_temperature": "warm"}, "not the config of an ArmoRM"),
    ({}, {"model_type": "armorm"}, "armorm"),
]


@pytest.mark.parametrize(("tensors", "config", "message"), FAULTS, ids=[message for *_, message in FAULTS])
def test_a_faulty_checkpoint_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, tensors: dict[str, torch.Tensor | None], config: dict[str, Any], message: str
) -> None:
    directory = write_armorm(tmp_path / "model", tensors, **config)
    with pytest.raises(CheckpointError, match=message):
        load_armorm(directory)


def truncated(directory: Path) -> None:
    file = directory / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def only_pickles(directory: Path) -> None:
    for file in directory.glob("*.safetensors"):
        file.unlink()
    torch.save(armorm_tensors(), directory / "pytorch_model.bin")


def no_tokenizer(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()


def no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{", encoding="utf-8")


def other_template(directory: Path) -> None:
    tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}").save_pretrained(directory)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "corrupt or truncated"),
        (only_pickles, "no safetensors file"),
        (no_tokenizer, "no usable tokenizer"),
        (no_json, "not JSON"),
        (other_template, "as the gate was trained on"),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    directory = write_armorm(tmp_path / "model")
    spoil(directory)
    with pytest.raises(CheckpointError, match=message):
        load_armorm(directory)


@pytest.mark.parametrize("load", [load_armorm, load_classifier])
def test_a_directory_that_is_not_there_is_refused(tmp_path: Path, load: Callable[[Path], object]) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load(tmp_path / "nowhere")


def test_heads_in_one_file_of_a_single_layer_gate_are_read_too(tmp_path: Path) -> None:
    directory = write_armorm(tmp_path / "model", gating_n_hidden=0)
    tensors = {n: t for f in directory.glob("*.safetensors") for n, t in load_file(f).items()}
    linear = {"gating.layers.0.weight": torch.ones(19, HIDDEN), "gating.layers.0.bias": torch.zeros(19)}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("gating.layers.")}
    for file in directory.glob("model*"):
        file.unlink()
    save_file(kept | linear, directory / "model.safetensors", {"format": "pt"})
    weights = load_armorm(directory).score(QUERIES, ANSWERS)[0][0].weights
    assert list(weights.values()) == pytest.approx([1.7 / 19] * 19)


def test_a_state_that_is_not_finite_has_no_score(checkpoint: Path) -> None:
    heads = load_armorm_heads(checkpoint)
    states = torch.ones(2, HIDDEN).numpy()
    spoilt = states.copy()
    spoilt[1, 3] = float("nan")
    known, unknown = heads.rewards(states, spoilt)
    assert known.score is not None
    assert unknown == Reward(None, note="the model's hidden state is not finite")


CLASSIFIER_WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def classifier_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier") / "model")


def as_its_card_says(directory: Path) -> list[list[float]]:
    """The logits of one conversation after another, rendered whole by the chat template."""
    model = LlamaForSequenceClassification.from_pretrained(directory).eval()
    words = tokenizer()
    rows = []
    for asked, answers in CONVERSATIONS:
        row = []
        for answer in answers:
            turns = [{"role": m.role, "content": m.content} for m in (*asked.messages, Message("assistant", answer))]
            ids = words(words.apply_chat_template(turns, tokenize=False), add_special_tokens=False).input_ids
            with torch.no_grad():
                row.append(model(torch.tensor([ids])).logits[0, 0].item())
        rows.append(row)
    return rows


@pytest.mark.parametrize("budget", [1, 200, 100_000])
def test_scores_are_the_models_logits_padded_or_not(classifier_directory: Path, budget: int) -> None:
    rewards = load_classifier(classifier_directory, budget=budget).score(QUERIES, ANSWERS)
    for row, expected in zip(rewards, as_its_card_says(classifier_directory), strict=True):
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


def test_answers_that_cannot_be_judged_have_no_score(classifier_directory: Path) -> None:
    rewards = load_classifier(classifier_directory, window=70).score(
        [QUERIES[0]], [["", "5", "word " * 80, "5 \udfff"]]
    )[0]
    assert [reward.score is None for reward in rewards] == [True, False, False, False]
    assert rewards[0].note == "empty answer"
    assert "tokens were read" in rewards[2].note


def test_a_score_that_is_not_finite_is_none(classifier_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "overflowing"
    shutil.copytree(classifier_directory, directory)
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
    without(directory / CLASSIFIER_WEIGHTS, "score.weight")
    with pytest.raises(CheckpointError, match=r"the first is score\.weight"):
        load_classifier(directory)


def test_an_armorm_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the first is score\.weight"):
        load_classifier(write_armorm(tmp_path / "model"))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "model")
    tensors = load_file(directory / CLASSIFIER_WEIGHTS)
    tensors["score.weight"][0, 3] = torch.nan
    save_file(tensors, directory / CLASSIFIER_WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"score\.weight holds NaN"):
        load_classifier(directory)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        load_classifier(write_classifier(tmp_path / "model", template=None))


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
