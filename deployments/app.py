"""The Ray Serve application: an ingress with the orchestrator in it, expert replicas, and the parts beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.errors import JobError
from symmoe.limits import STORE_REQUEST_SECONDS

from .access.breaker import Breaker
from .access.keys import Open, StoredKeys
from .api.application import application
from .api.service import Service
from .dedicated import YIELDING, DedicatedReplica
from .expert import ExpertReplica
from .experts import RayExperts
from .lifecycle.startup import first_to_load, reachable
from .options import Site, dedicated_options, expert_options, ingress_options, reward_options
from .orchestrator import Orchestrator
from .remote import PoolExperts
from .scoring import ReplicaScorer, RewardReplica
from .settings import Settings
from .storage import Storage
from .worker import Build

INGRESS, EXPERTS, REWARD, DEDICATED = "ingress", "experts", "reward", "dedicated-"

Behind = dict[str, Any]
"""What the ingress asks, by the deployment's name: bound, and in the ingress its handle."""


class Ingress:
    """Takes requests and answers them; routing happens in this process."""

    def __init__(self, behind: Behind, pool: Pool, settings: Settings, build: Build, keys: bool, admin: bool) -> None:
        storage = Storage()
        everyone, scorer = behind_handles(pool, behind, settings)
        patient = Breaker(storage, STORE_REQUEST_SECONDS)  # what is decided about experts waits for the store's disk
        orchestrator = Orchestrator(build(pool), everyone, settings, patient, scorer)
        # over connections of their own: however much else waits for the store, a revoked key is heard of
        known = StoredKeys(Breaker(Storage())) if keys else Open(admin)
        self._service = Service(pool, orchestrator, known, settings, storage)
        self._asked = False

    def __serve_build_asgi_app__(self) -> Any:
        app = application(self._service)
        if not self._service.settings.console:
            return app
        from .console.console import Console

        return Console(app, self._service)

    async def check_health(self) -> None:
        """On the first call, wait until questions can be answered and this node's proxy takes requests.

        Only then does Ray Serve count the ingress as running.
        """
        await self._service.begun()
        if not self._asked:
            await reachable()
            self._asked = True

    async def readiness(self) -> str:
        """`ready`, `starting` or `stopping`."""
        return await self._service.readiness()

    async def drain(self, seconds: float) -> bool:
        """Turn all further requests away. Returns whether all open ones ended within so many seconds."""
        return await self._service.open.drained(seconds)


class Replica(ExpertReplica):
    """An expert replica in a process of its own, which ends with its engine.

    A thread that hangs in native code cannot be ended otherwise. Its requests are then retried elsewhere at once, while
    Serve by itself would first wait for the open requests of an unhealthy replica.
    """

    def __init__(self, pool: Pool, settings: Settings, build: Build) -> None:
        from ray import get_gpu_ids

        if not get_gpu_ids():  # on CPUs an engine takes every core: without this its steps would hold up routing
            os.nice(YIELDING)
        super().__init__(pool, settings, build, first=first_to_load)
        self._begun = False

    async def check_health(self) -> None:  # type: ignore[override]  # Ray Serve awaits it
        """On the first call, wait until the first expert answers: Ray Serve counts a replica from then on.

        Later, end the process if the engine cannot be saved; Ray Serve calls this regularly and starts another.
        """
        if not self._begun:
            await self.begun()
            self._begun = True
        try:
            super().check_health()
        except RuntimeError:
            os._exit(1)


def build_app(args: Mapping[str, Any]) -> Any:
    """The application, as a Serve config file names it: `import_path: symmoe.deployments.app:build_app`.

    `args` may hold `pool` and any field of `Settings`. Keys are those of the store (`symmoe key create`), and every
    request needs one unless `args` holds `without_keys: true`. Raises `JobError` and `PoolError`.
    """
    settings = settings_of(args)
    keys = args.get("without_keys") is not True
    return service_app(read_pool(str(args.get("pool", "starter"))), settings, keys)


def settings_of(args: Mapping[str, Any]) -> Settings:
    """The settings among an application's arguments. Raises `JobError` for an unknown or invalid argument."""
    known = {field.name for field in fields(Settings)}
    unknown = sorted(args.keys() - known - {"pool", "without_keys"})
    if unknown:
        raise JobError(f"unknown arguments: {', '.join(unknown)}", hint=f"there are: {', '.join(sorted(known))}, pool")
    values = {name: value for name, value in args.items() if name in known}
    try:
        return TypeAdapter(Settings).validate_python({"traces": "metadata", **values})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise JobError(f"the setting {wrong['loc'][0]} is {wrong['input']!r}: {wrong['msg']}") from error


def service_app(
    pool: Pool, settings: Settings, keys: bool = False, build: Build = Assembly, admin: bool = False
) -> Any:
    """The application of a pool. Ray must be running: replicas without a stated size share the present machines.

    Where no keys are required, `admin` lets everybody change the experts.
    """
    from ray import serve

    ingress = serve.deployment(name=INGRESS, **ingress_options(settings))(serve.ingress()(Ingress))
    return ingress.bind(_behind(pool, settings, build), pool, settings, build, keys, admin)


def behind_handles(pool: Pool, behind: Behind, settings: Settings) -> tuple[PoolExperts, ReplicaScorer | None]:
    """A pool's experts, and its scorer if it has a reward model, behind Ray Serve handles.

    `behind` holds these by their deployments' names.
    """
    replicas = RayExperts(behind[EXPERTS], settings.least == 0) if EXPERTS in behind else None
    dedicated = {
        expert.name: RayExperts(behind[DEDICATED + expert.name], expert.dedicated.least == 0, apart=True)
        for expert in pool.experts
        if expert.dedicated is not None
    }
    scorer = None
    if REWARD in behind:
        scorer = ReplicaScorer(behind[REWARD], settings.slowest_verdict, settings.reward_replicas)
    return PoolExperts(pool, replicas, dedicated), scorer


def _behind(pool: Pool, settings: Settings, build: Build) -> Behind:
    """Everything that is asked by the ingress, bound."""
    import ray
    from ray import serve

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    accelerated = bool(settings.accelerators) or any(machine.get("GPU", 0) >= 1 for machine in machines)
    site = Site.of(pool, accelerated)
    behind: Behind = {}
    if site.switched:
        switched_site = site.only(*site.switched)
        options = expert_options(site, settings, machines)
        behind[EXPERTS] = serve.deployment(name=EXPERTS, **options)(Replica).bind(switched_site, settings, build)
    for expert in site.dedicated:
        options = dedicated_options(site, expert, settings)
        deployment = serve.deployment(name=DEDICATED + expert.name, **options)(DedicatedReplica)
        behind[DEDICATED + expert.name] = deployment.bind(site.only(expert), settings, site.accelerators)
    if pool.reward is not None:
        deployment = serve.deployment(name=REWARD, **reward_options(pool, settings))(RewardReplica)
        behind[REWARD] = deployment.bind(pool, settings, build)
    return behind
