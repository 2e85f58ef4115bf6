"""The Ray Serve application: an ingress with the orchestrator in it, and the expert replicas."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.errors import JobError

from .access.breaker import Breaker
from .access.keys import StoredKeys
from .api.application import application
from .api.keys import Open
from .api.service import Service
from .expert import ExpertReplica
from .experts import RayExperts
from .orchestrator import Orchestrator
from .placement import claim, stated
from .remote import PoolExperts
from .settings import Settings
from .storage import Storage
from .worker import Build

INGRESS, EXPERTS = "ingress", "experts"
_HEALTH_SECONDS = 5.0
_YIELDING = 10


class Ingress:
    """Takes requests in and has them answered; routing happens in this process."""

    def __init__(
        self, experts: Any, pool: str, root: str, settings: Settings, build: Build, keys: bool, admin: bool
    ) -> None:
        described = Pool.model_validate({**json.loads(pool), "root": root})
        everyone = PoolExperts(described, RayExperts(experts))
        storage = Storage()
        orchestrator = Orchestrator(build(described), everyone, settings, Breaker(storage))
        known = StoredKeys(Breaker(storage)) if keys else Open(admin)
        self._service = Service(described, orchestrator, known, settings, storage)

    def __serve_build_asgi_app__(self) -> Any:
        return application(self._service)

    async def readiness(self) -> str:
        """`ready`, `starting` or `stopping`."""
        return await self._service.readiness()

    async def drain(self, seconds: float) -> bool:
        """Turn new requests away; whether the open ones are finished within so many seconds."""
        return await self._service.open.drained(seconds)


class Replica(ExpertReplica):
    """An expert replica in a process of its own, which ends with its engine.

    A thread that hangs in native code cannot be ended in any other way. What it was asked is asked again elsewhere at
    once, while Serve, left to itself, would first wait for the open requests of a replica that is unwell.
    """

    def __init__(self, pool: str, root: str, settings: Settings, build: Build) -> None:
        from ray import get_gpu_ids

        if not get_gpu_ids():  # on CPUs an engine takes every core: without this its steps would hold up routing
            os.nice(_YIELDING)
        super().__init__(pool, root, settings, build)

    def check_health(self) -> None:
        """End the process if the engine cannot be saved; Ray Serve asks regularly, and starts another."""
        try:
            super().check_health()
        except RuntimeError:
            os._exit(1)


def build_app(args: Mapping[str, Any]) -> Any:
    """The application, as a Serve config file names it: `import_path: symmoe.deployments.app:build_app`.

    `args` may hold `pool` and any field of `Settings`. Keys are those of the store (`symmoe key create`), and everybody
    needs one unless it holds `without_keys: true`. Raises `JobError` and `PoolError`.
    """
    known = {field.name for field in fields(Settings)}
    unknown = sorted(args.keys() - known - {"pool", "without_keys"})
    if unknown:
        raise JobError(f"unknown arguments: {', '.join(unknown)}", hint=f"there are: {', '.join(sorted(known))}, pool")
    settings = Settings(**{name: value for name, value in args.items() if name in known})
    keys = args.get("without_keys") is not True
    return service_app(read_pool(str(args.get("pool", "starter"))), settings, keys)


def service_app(
    pool: Pool, settings: Settings, keys: bool = False, build: Build = Assembly, admin: bool = False
) -> Any:
    """The application of a pool. Ray must be running: replicas that state no size share the machines there are.

    Where no keys are asked for, `admin` lets everybody change which experts there are.
    """
    from ray import serve

    replicas = None
    local = pool.model_copy(update={"experts": tuple(expert for expert in pool.experts if expert.remote is None)})
    if local.experts:
        experts = serve.deployment(name=EXPERTS, **_expert_options(local, settings))(Replica)
        replicas = experts.bind(*_travelling(local), settings, build)
    ingress = serve.deployment(name=INGRESS, **_ingress_options(settings))(serve.ingress()(Ingress))
    return ingress.bind(replicas, *_travelling(pool), settings, build, keys, admin)


def _travelling(pool: Pool) -> tuple[str, str]:
    return pool.model_dump_json(), os.fspath(pool.root)


def _ingress_options(settings: Settings) -> dict[str, Any]:
    """Its own gate turns away what is too much, with an error that clients understand, so Serve must let more in."""
    return {
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": 2 * settings.most_open + 16,
        "graceful_shutdown_timeout_s": settings.grace,
        "graceful_shutdown_wait_loop_s": 0.1,
    }


def _expert_options(pool: Pool, settings: Settings) -> dict[str, Any]:
    most, least = settings.replicas, settings.replicas if settings.least is None else settings.least
    options = {
        "ray_actor_options": _claimed(pool, settings),
        "max_ongoing_requests": 2 * settings.most_waiting + 16,
        "health_check_period_s": _HEALTH_SECONDS,
        "health_check_timeout_s": 6 * _HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": settings.grace,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    if least == most:
        return {**options, "num_replicas": most}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": pool.engine.max_num_seqs,
        "downscale_delay_s": settings.idle,
    }
    return {**options, "autoscaling_config": scaling}


def _claimed(pool: Pool, settings: Settings) -> dict[str, float]:
    """What the settings state; else the share of the machines, which must all have joined by now."""
    accelerators = 0 if pool.engine.kind == "echo" else pool.engine.tensor_parallel_size
    if settings.cpus is not None or settings.accelerators is not None:
        return stated(settings.cpus, settings.accelerators)
    import ray

    return claim([node["Resources"] for node in ray.nodes() if node["Alive"]], settings.replicas, accelerators)
