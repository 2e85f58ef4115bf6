"""Whether an expert that somebody sends may join the pool of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symmoe.build import check_expert
from symmoe.config import BUCKET, HUB_ADAPTER, ExpertConfig, Pool
from symmoe.errors import ConfigError
from symmoe.limits import EXPERTS
from symmoe.loading.sources import is_local_path

from .decision import Decision, profile_of

_LONGEST = 1024


def joining(pool: Pool, config: ExpertConfig, record: dict[str, Any] | None, folder: str | None) -> Decision:
    """The decision of a newcomer, its files verified. Blocks, as they may be large.

    Raises `ConfigError` and `CheckpointError`.
    """
    check_admissible(pool, config, folder)
    try:
        check_expert(pool, config, set())
    except OSError as error:
        raise ConfigError(f"its files cannot be read: {error.strerror}") from error
    if record is not None:
        profile_of(config.name, record)
    return Decision(expert=config.model_dump(mode="json", exclude_defaults=True), record=record)


def check_admissible(pool: Pool, config: ExpertConfig, folder: str | None) -> None:
    """Look at what a newcomer may be, before its files are: when it is sent, and whenever the store names it again.

    Files must lie in the folder of the pool file, or in `folder`; nobody may name a URL, nor have code of a checkpoint
    run: that is for who writes the pool file. Raises `ConfigError`.
    """
    if config.remote is not None or config.dedicated is not None or config.trust_remote_code:
        what = next((name for name in ("remote", "dedicated") if getattr(config, name)), "trust_remote_code")
        raise ConfigError(f"{what}: this can be set in the pool file only", hint=f"leave {what} out")
    if all(expert.remote is not None or expert.dedicated is not None for expert in pool.experts):
        raise ConfigError("all experts of this service are remote or dedicated: it has no engine for another")
    if len(pool.experts) >= EXPERTS:
        raise ConfigError(f"there are {EXPERTS} experts, which is as many as a pool may have", hint="remove one first")
    for name, source in (("model", config.model), ("adapter", config.adapter)):
        if source is not None and source.startswith(BUCKET):
            raise ConfigError(f"{name}: a bucket can be named in the pool file only", hint="copy the files here")
        if source is not None and not source.startswith(HUB_ADAPTER) and (name == "adapter" or is_local_path(source)):
            _confine(name, source, pool, folder)


def _confine(name: str, source: str, pool: Pool, folder: str | None) -> None:
    roots = [pool.root.resolve(), *([] if folder is None else [Path(folder).resolve()])]
    try:
        path = pool.path(source).resolve()
    except (OSError, RuntimeError, ValueError):  # no such user, a loop of links, a null byte
        path = None
    if path is None or len(source) > _LONGEST or not any(path.is_relative_to(root) for root in roots):
        message = f"{name}: only what lies in the folder of the pool file, or in weights_folder, can be added"
        raise ConfigError(message, hint="copy the files there")
