"""Builds the scorer of candidates from the `reward` section of a pool file."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path

from symmoe.build_embedder import sentence_embedder
from symmoe.config import STARTER, Pool, RewardConfig, cache_dir
from symmoe.errors import CheckpointError
from symmoe.loading.sources import PACKAGED_EMBEDDERS, is_elsewhere, local_directory, packaged_path
from symmoe.loading.verify import verify_model
from symmoe.protocols import RewardModel, Scorer
from symmoe.scoring.heads import CARD, WEIGHTS, load_heads
from symmoe.scoring.reward_models import (
    Reading,
    UnopenedModel,
    backbone_of,
    is_small_scorer,
    mixture_of,
    open_reward_model,
)
from symmoe.scoring.states import EmbeddedStates, HiddenStates, load_states
from symmoe.scoring.weighing import Mixture, RecordScorer, RewardScorer


def build_scorer(pool: Pool) -> Scorer:
    """The scorer that the pool file describes: records alone, or a reward model as well.

    The model is read on first use. Raises `CheckpointError` for a small scorer with an unusable card.
    """
    if pool.reward is None:
        return RecordScorer()
    opening = partial(_open, pool, pool.reward)
    return RewardScorer(UnopenedModel(opening), _mixture(pool, pool.reward))


def check_reward(pool: Pool) -> list[str]:
    """Verify the files of a pool's reward model. Returns what was left unverified. Hub models are not fetched.

    Raises `CheckpointError` for the first fault.
    """
    if pool.reward is None:
        return []
    if _elsewhere(pool.reward):
        return [f"reward: {pool.reward.model} is on a hub and was not downloaded"]
    directory = reward_directory(pool, pool.reward)
    if is_small_scorer(directory):
        _, card = load_heads(directory)
        mixture_of(directory)
        backbone_of(card, directory)
    else:
        verify_model(directory)
    return []


def reward_directory(pool: Pool, reward: RewardConfig) -> Path:
    """The directory of a reward model, fetched if need be."""
    if reward.model == STARTER:
        return shipped_scorer()
    return local_directory(reward.model, pool.root, cache_dir(), reward.revision)


def shipped_scorer() -> Path:
    """The directory of the small scorer that symmoe ships for the starter pool."""
    return Path(str(files("symmoe.starter"))) / "scorer"


def reward_files(pool: Pool) -> list[Path]:
    """The files that identify a pool's reward model, so that answers of different models are told apart."""
    if pool.reward is None or _elsewhere(pool.reward):
        return []
    directory = reward_directory(pool, pool.reward)
    return [directory / CARD, directory / WEIGHTS] if is_small_scorer(directory) else sorted(directory.glob("*.json"))


def backbone_states(source: str, root: Path, reading: Reading = Reading()) -> HiddenStates:  # noqa: B008  (frozen)
    """The states that a small scorer reads: a sentence-transformers model's embeddings, or an LLM's last layer.

    Of an LLM the mean over an answer's tokens is used, which ranked answers better than the last token.
    """
    if source in PACKAGED_EMBEDDERS:
        return EmbeddedStates(sentence_embedder(lambda: packaged_path(source)))
    directory = local_directory(source, root, cache_dir())
    if (directory / "modules.json").is_file():
        return EmbeddedStates(sentence_embedder(lambda: directory))
    return load_states(directory, device=reading.device, window=reading.window, pooling="mean")


def _open(pool: Pool, reward: RewardConfig) -> RewardModel:
    reading = Reading(reward.device, reward.window)
    directory = reward_directory(pool, reward)
    return open_reward_model(directory, lambda source: backbone_states(source, pool.root, reading), reading)


def _mixture(pool: Pool, reward: RewardConfig) -> Mixture:
    fitted = Mixture()
    if not _elsewhere(reward):
        directory = reward_directory(pool, reward)
        if reward.model == STARTER and not is_small_scorer(directory):
            raise CheckpointError(f"{directory}: the shipped scorer is not there", hint="install symmoe again")
        if is_small_scorer(directory):
            fitted = mixture_of(directory)
    temperature = fitted.temperature if reward.temperature is None else reward.temperature
    evidence = fitted.evidence if reward.evidence is None else reward.evidence
    return Mixture(temperature, evidence)


def _elsewhere(reward: RewardConfig) -> bool:
    return reward.model != STARTER and is_elsewhere(reward.model)
