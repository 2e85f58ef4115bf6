"""ArmoRM (Wang et al., 2406.12845): many objectives, weighed by a gate that reads the prompt; no remote code is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.scoring.batching import TOKEN_BUDGET, read_in_batches
from symmoe.scoring.checkpoint import Precision, load_model, load_tokenizer, read_tensors, window_of
from symmoe.scoring.conversation import Conversation, ConversationTokenizer
from symmoe.scoring.heads import GatingNetwork, Heads
from symmoe.scoring.states import BackboneStates
from symmoe.scoring.tensors import PREFIXES, from_tensors
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
    heads = load_heads(directory)  # the cheap checks before gigabytes are read
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, "AutoModel", precision, device)
    tokens = ConversationTokenizer(tokenizer, window_of(model, window), HEADER)
    return ArmoRewardModel(model, tokens, heads, budget)


def load_heads(directory: Path) -> Heads:
    """The heads of a checkpoint without its backbone; checked against its config. Raises `CheckpointError`."""
    config = read_json(directory / "config.json")
    try:
        width, count = int(config["hidden_size"]), int(config.get("num_objectives", len(OBJECTIVES)))
        temperature = float(config.get("gating_temperature", TEMPERATURE))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / 'config.json'}: not the config of an ArmoRM ({error!r})") from error
    names = OBJECTIVES if count == len(OBJECTIVES) else tuple(f"objective-{place}" for place in range(count))
    heads = from_tensors(read_tensors(directory, PREFIXES), names, (width, width), temperature, str(directory))
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
