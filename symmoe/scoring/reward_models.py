"""Reward models in a directory: safetensors only, no remote code, no network.

ArmoRM (Wang et al., 2406.12845) rates many objectives, weighed by a gate that reads the prompt; others, such as
Skywork-Reward-V2, are sequence classifiers of one label; a small scorer trained here reads a backbone's states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.protocols import RewardModel
from symmoe.scoring.conversation import TOKEN_BUDGET, Conversation, ConversationTokenizer, padded, read_in_batches
from symmoe.scoring.heads import CARD, WEIGHTS, GatingNetwork, Heads, from_tensors, load_heads, read_tensors
from symmoe.scoring.small import SmallScorer
from symmoe.scoring.states import BackboneStates, HiddenStates, Precision, load_model, load_tokenizer, window_of
from symmoe.scoring.weighing import Mixture
from symmoe.types import Query, Reward

HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
"""The gate reads the first of these tokens: the end of the last turn before the answer."""
TEMPERATURE = 10.0
"""The gate's temperature where the config names none."""
OBJECTIVES = (
    *(f"helpsteer-{name}" for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")),
    "ultrafeedback-overall_score",
    *(f"ultrafeedback-{name}" for name in ("instruction_following", "truthfulness", "honesty", "helpfulness")),
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    *(f"code-{name}" for name in ("complexity", "style", "explanation", "instruction-following", "readability")),
)
"""What the published model rates, in the order of its outputs (model card of RLHFlow/ArmoRM-Llama3-8B-v0.1)."""


class ArmoRewardModel:
    """Scores answers as the published model does: `Reward.objectives` are its `rewards`, `weights` its `gating_output`.

    The backbone computes in its own precision, the heads in float32.
    """

    def __init__(self, model: Any, tokens: ConversationTokenizer, heads: Heads, budget: int = TOKEN_BUDGET) -> None:
        self._states = BackboneStates(model, tokens, budget)
        self._tokens, self._heads, self._budget = tokens, heads, budget

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None."""
        return read_in_batches(self._tokens, queries, candidates, self._read, self._budget)

    def _read(self, conversations: Sequence[Conversation]) -> list[Reward]:
        return self._heads.rewards(*self._states.read(conversations))


def load_armorm(
    directory: Path,
    precision: Precision = "auto",
    device: str = "cpu",
    window: int | None = None,
    budget: int = TOKEN_BUDGET,
) -> ArmoRewardModel:
    """The model in `directory`, laid out as the published checkpoint.

    `window` is the most tokens of one conversation (the published model was trained on 4096), `budget` those of one
    batch. Raises `CheckpointError` for a tensor that is missing, damaged, not finite or of the wrong size.
    """
    heads = load_armorm_heads(directory)  # the cheap checks before gigabytes are read
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, "AutoModel", precision, device)
    tokens = ConversationTokenizer(tokenizer, window_of(model, window), HEADER)
    return ArmoRewardModel(model, tokens, heads, budget)


def load_armorm_heads(directory: Path) -> Heads:
    """The heads of a checkpoint without its backbone; checked against its config. Raises `CheckpointError`."""
    config = read_json(directory / "config.json")
    try:
        width, count = int(config["hidden_size"]), int(config.get("num_objectives", len(OBJECTIVES)))
        temperature = float(config.get("gating_temperature", TEMPERATURE))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / 'config.json'}: not the config of an ArmoRM ({error!r})") from error
    names = OBJECTIVES if count == len(OBJECTIVES) else tuple(f"objective-{place}" for place in range(count))
    heads = from_tensors(read_tensors(directory), names, (width, width), temperature, str(directory))
    _agree(config, heads.gate, directory)
    return heads


def _agree(config: dict[str, Any], gate: GatingNetwork, directory: Path) -> None:
    """Config and tensors both tell the gate's depth and width; where they differ, one is of another release."""
    found = {"gating_n_hidden": len(gate.layers) - 1}
    if len(gate.layers) > 1:
        found["gating_hidden_dim"] = len(gate.layers[0][0])
    for key, value in found.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"{directory}: config.json has {key} {config[key]}, the tensors have {value}",
                hint="the gate is of another size than the config: restore both from one release",
            )


class ClassifierRewardModel:
    """A sequence classifier whose logit is the score; it has no objectives.

    The model itself chooses the token that it reads (the last that is not its padding token). A model without a padding
    token reads one answer at a time.
    """

    def __init__(self, model: Any, tokens: ConversationTokenizer, budget: int = TOKEN_BUDGET) -> None:
        self._model, self._tokens = model, tokens
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self._budget = 0 if self._pad is None else budget

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None."""
        return read_in_batches(self._tokens, queries, candidates, self._read, self._budget)

    def _read(self, conversations: Sequence[Conversation]) -> list[Reward]:
        import torch

        ids, mask = padded(conversations, self._pad or 0, self._model.device)
        with torch.inference_mode():
            logits: list[float] = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].tolist()
        return [Reward(x) if isfinite(x) else Reward(None, note="the model's score is not finite") for x in logits]


def load_classifier(
    directory: Path,
    device: str = "cpu",
    window: int | None = None,
    budget: int = TOKEN_BUDGET,
) -> ClassifierRewardModel:
    """The model in `directory`, of any architecture that transformers has a sequence classifier for.

    `window` is the most tokens of one conversation, `budget` those of one batch. Raises `CheckpointError` for a model
    with more than one output, or whose tensors are missing, damaged, not finite or of the wrong size.
    """
    read_json(directory / "config.json")
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, "AutoModelForSequenceClassification", "auto", device)
    if model.config.num_labels != 1:
        raise CheckpointError(
            f"{directory}: a classifier of {model.config.num_labels} labels, where a reward model has one",
            hint="use a checkpoint that was trained as a reward model",
        )
    return ClassifierRewardModel(model, ConversationTokenizer(tokenizer, window_of(model, window)), budget)


ARMORM = "LlamaForRewardModelWithGating"
"""The architecture that ArmoRM's config names."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a reward model runs, and the most tokens of one conversation that it reads (its own limit if None)."""

    device: str = "cpu"
    window: int | None = None


def is_small_scorer(directory: Path) -> bool:
    """Whether `symmoe reward train` wrote this directory."""
    return (directory / CARD).is_file() and (directory / WEIGHTS).is_file()


def open_reward_model(directory: Path, states: Callable[[str], HiddenStates], reading: Reading) -> RewardModel:
    """The reward model in a directory: a small scorer, an ArmoRM, or a sequence classifier of one label.

    `states` opens the backbone that a small scorer's card names. Raises `CheckpointError`.
    """
    if is_small_scorer(directory):
        heads, card = load_heads(directory)
        return SmallScorer(heads, states(backbone_of(card, directory)))
    architectures = read_json(directory / "config.json").get("architectures") or []
    opened = load_armorm if ARMORM in architectures else load_classifier
    return opened(directory, device=reading.device, window=reading.window)


def backbone_of(card: Mapping[str, Any], directory: Path) -> str:
    """The source of the model whose states a small scorer reads. Raises `CheckpointError`."""
    source = card.get("about", {}).get("backbone")
    if not isinstance(source, str):
        raise CheckpointError(f"{directory / CARD}: it does not say whose hidden states the scorer reads")
    return source


def mixture_of(directory: Path) -> Mixture:
    """How a small scorer's scores were fitted to be weighed against records. Raises `CheckpointError`."""
    fitted = read_json(directory / CARD).get("about", {}).get("mixture")
    try:
        mixture = Mixture(float(fitted["temperature"]), float(fitted["evidence"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CARD}: no usable mixture ({error!r})") from error
    if not (mixture.temperature > 0 and mixture.evidence >= 0):
        raise CheckpointError(f"{directory / CARD}: no usable mixture ({mixture})")
    return mixture


class UnopenedModel:
    """A reward model that is opened on first use, once."""

    def __init__(self, opening: Callable[[], RewardModel]) -> None:
        self._opening = opening
        self._model: RewardModel | None = None

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order. Raises `CheckpointError` if it cannot be opened."""
        if self._model is None:
            self._model = self._opening()
        return self._model.score(queries, candidates)
