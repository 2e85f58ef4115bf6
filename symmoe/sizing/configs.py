"""Where an expert's config comes from: the directory that it names, or the table of models that is shipped."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from symmoe.config import ExpertConfig, Pool
from symmoe.errors import CheckpointError
from symmoe.sizing.architecture import Architecture

_ESSENTIAL = ("rope_theta", "rope_scaling", "rms_norm_eps", "max_position_embeddings")


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """The configs that are shipped, by the model's source."""
    text = (files("symmoe.sizing") / "known.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return loaded


def config_of(pool: Pool, expert: ExpertConfig) -> dict[str, Any]:
    """An expert's config. Nothing is downloaded: `CheckpointError` for a hub model that the table does not hold."""
    if expert.model in known_configs():
        return known_configs()[expert.model]
    if not expert.model.startswith(("./", "../", "/", "~")):
        raise CheckpointError(
            f"{expert.name}: the size of {expert.model} is not known without downloading it",
            hint="download it and name its directory in the pool file, or say its size with a config.json of its own",
        )
    file = pool.path(expert.model) / "config.json"
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{expert.name}: {file} cannot be read ({error})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{expert.name}: {file} is no JSON object")
    return loaded


def architectures(pool: Pool) -> dict[str, Architecture]:
    """The shape of each expert's model, by the expert's name; those that others serve are left out."""
    own = [expert for expert in pool.experts if expert.remote is None]
    return {expert.name: Architecture.of(config_of(pool, expert), expert.name) for expert in own}


def shape_groups(pool: Pool) -> tuple[tuple[str, ...], ...]:
    """Experts that can follow one another in one engine: their weights are swapped; between groups it is rebuilt.

    What a config says beyond shapes, positions and norms is not known here and may divide a group further.
    """
    groups: dict[str, list[str]] = {}
    for expert in pool.experts:
        if expert.remote is not None:
            continue
        config = config_of(pool, expert)
        numerics = {key: str(config.get(key)) for key in _ESSENTIAL}
        key = f"{Architecture.of(config, expert.name)} {numerics}"
        groups.setdefault(key, []).append(expert.name)
    return tuple(tuple(group) for group in groups.values())
