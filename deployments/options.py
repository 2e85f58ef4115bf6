"""Ray Serve's options of each deployment: its resources, the number of replicas, and how they end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symmoe import limits
from symmoe.config import DedicatedConfig, ExpertConfig, Pool

from .dedicated import bundles
from .placement import claim, left, stated
from .settings import Settings

_HEALTH_SECONDS = 5.0
_PROXIES = 16
"""That may all send what they have to one ingress."""
_LOOK_BACK = (11.0, 30.0)
"""Seconds over which load is averaged, at least and at most: Ray Serve looks every ten seconds."""

Share = dict[str, float]
"""An amount of each kind of resource as Ray counts it (`CPU`, `GPU`)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A pool's placement: which experts share the expert replicas, and which have engines of their own.

    `accelerators` is how many an engine takes.
    """

    pool: Pool
    switched: tuple[ExpertConfig, ...]
    dedicated: tuple[ExpertConfig, ...]
    accelerators: int

    @classmethod
    def of(cls, pool: Pool, accelerated: bool) -> Site:
        """The placement of a pool on machines with or without accelerators."""
        local = [expert for expert in pool.experts if expert.remote is None]
        switched = tuple(expert for expert in local if expert.dedicated is None)
        dedicated = tuple(expert for expert in local if expert.dedicated is not None)
        takes = accelerated and pool.engine.runs_models
        return cls(pool, switched, dedicated, pool.engine.tensor_parallel_size if takes else 0)

    def only(self, *experts: ExpertConfig) -> Pool:
        """The placement with only these experts."""
        return self.pool.model_copy(update={"experts": experts})

    def beside(self, settings: Settings) -> list[Share]:
        """The resources claimed by dedicated experts and reward replicas."""
        shares: list[Share] = []
        for expert in self.dedicated:
            config = expert.dedicated or DedicatedConfig()
            shares += config.replicas * bundles(config, self.accelerators)
        if self.pool.reward is not None:
            kinds = {"num_cpus": "CPU", "num_gpus": "GPU"}
            share = {kinds[name]: amount for name, amount in _reward_claim(self.pool, settings).items()}
            shares += settings.reward_replicas * [share]
        return shares


def room_beside(pool: Pool, settings: Settings) -> int:
    """CPUs claimed besides the expert replicas on machines without accelerators."""
    return math.ceil(sum(share.get("CPU", 0.0) for share in Site.of(pool, False).beside(settings)))


def ingress_options(settings: Settings) -> dict[str, Any]:
    """Options that let all requests in: the ingress itself turns away excess, with an error that clients understand.

    If Serve held requests back, it would pass them on a few at a time, and a crowd that the ingress would refuse at
    once would keep everybody waiting.
    """
    return {
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": max(2 * settings.most_open, _PROXIES * limits.CONNECTIONS),
        "graceful_shutdown_timeout_s": settings.grace,
        "graceful_shutdown_wait_loop_s": 0.1,
    }


def expert_options(site: Site, settings: Settings, machines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Options of the replicas that experts share. They claim what the settings state, or their share of what is left.

    Where nothing is stated, all `machines` must have joined by now.
    """
    if settings.cpus is not None or settings.accelerators is not None:
        actor_options = stated(settings.cpus, settings.accelerators)
    else:
        actor_options = claim(left(machines, site.beside(settings)), settings.replicas, site.accelerators)
    return {"ray_actor_options": actor_options, **_running(site.pool, settings, settings.replicas, settings.least)}


def dedicated_options(site: Site, expert: ExpertConfig, settings: Settings) -> dict[str, Any]:
    """The replicas of one dedicated expert."""
    config = expert.dedicated or DedicatedConfig()
    parts = bundles(config, site.accelerators)
    return {
        "ray_actor_options": {"num_cpus": parts[0]["CPU"]},
        "placement_group_bundles": parts,
        "placement_group_strategy": "PACK",
        **_running(site.pool, settings, config.replicas, config.least),
    }


def reward_options(pool: Pool, settings: Settings) -> dict[str, Any]:
    """The reward replicas."""
    deployment_options = {"ray_actor_options": _reward_claim(pool, settings)}
    return {**deployment_options, **_running(pool, settings, settings.reward_replicas, settings.reward_least)}


def _reward_claim(pool: Pool, settings: Settings) -> Share:
    accelerators = settings.reward_accelerators
    if accelerators is None and pool.reward is not None and pool.reward.device == "cuda":
        accelerators = 1.0
    return stated(settings.reward_cpus, accelerators)


def _running(pool: Pool, settings: Settings, most: int, least: int | None) -> dict[str, Any]:
    options = {
        "max_ongoing_requests": 2 * settings.most_waiting + 16,
        "health_check_period_s": _HEALTH_SECONDS,
        "health_check_timeout_s": 6 * _HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": settings.grace,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    if least is None or least == most:
        return {**options, "num_replicas": most}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": pool.engine.max_num_seqs,
        "downscale_delay_s": settings.idle,
        "look_back_period_s": min(max(settings.idle, _LOOK_BACK[0]), _LOOK_BACK[1]),
    }
    return {**options, "autoscaling_config": scaling}
