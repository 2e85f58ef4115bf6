"""Which kind of reward model a directory holds, and reading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.protocols import RewardModel
from symmoe.scoring.armorm import load_armorm
from symmoe.scoring.artefact import CARD, WEIGHTS, load_heads
from symmoe.scoring.classifier import load_classifier
from symmoe.scoring.mixing import Mixture
from symmoe.scoring.small import SmallScorer
from symmoe.scoring.states import HiddenStates
from symmoe.types import Query, Reward

ARMORM = "LlamaForRewardModelWithGating"
"""The architecture that ArmoRM's config names."""


@dataclass(frozen=True, slots=True)
class Reading:
    """On what a reward model runs, and the most tokens of one conversation that it reads (its own bound if None)."""

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
    """A reward model that is opened when it is first asked, once."""

    def __init__(self, opening: Callable[[], RewardModel]) -> None:
        self._opening = opening
        self._model: RewardModel | None = None

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order. Raises `CheckpointError` if it cannot be opened."""
        if self._model is None:
            self._model = self._opening()
        return self._model.score(queries, candidates)
