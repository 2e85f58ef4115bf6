"""Lets machines of a Ray cluster that want the same model at about the same time meet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.errors import CollectiveError
from symmoe.loading.arena import available_memory
from symmoe.loading.staging import Place, Seat, Staging
from symmoe.types import Joint, Load

from .session import NAMESPACE

PATIENCE = 3.0
"""Seconds that the first machine waits for others."""
_ADDRESS_SECONDS = 20.0
ALONE = Joint(-1, 1, 0.0)
"""For a step with which no other begins."""
_MEMORY = Path("/dev/shm")  # noqa: S108  # memory that processes of one machine share


@dataclass(slots=True)
class _Table:
    """Those who wait for others that want the same. `expected` are the workers that come, where a plan knows."""

    number: int
    machines: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    came: int = 0
    expected: int = 0


class Meetings:
    """Seats machines that want the same key: all `machines` that have not had it, or those that come in `patience`.

    If a plan says how many workers begin together, exactly these are waited for.
    """

    def __init__(self, machines: Sequence[str], patience: float = PATIENCE) -> None:
        self._machines, self.patience = frozenset(machines), patience
        self._tables: dict[str, _Table] = {}
        self._served: dict[str, set[str]] = {}
        self._addresses: dict[int, asyncio.Future[str]] = {}
        self._count = 0

    async def come(self, key: str, expected: int, patience: float) -> None:
        """Count one of the expected workers as arrived without taking part in the meeting."""
        table = self._table(key, expected, patience)
        table.came += 1
        self._close_if_all(key, table)

    async def meet(self, key: str, machine: str, expected: int = 0, patience: float = 0.0) -> tuple[int, int, int]:
        """The rank, the size and the number of the meeting that a machine joins."""
        table = self._table(key, expected, patience)
        if machine not in table.machines:
            table.machines.append(machine)
        self._close_if_all(key, table)
        await table.closed.wait()
        return table.machines.index(machine), len(table.machines), table.number

    async def open(self, number: int, address: str) -> None:
        """Publish the address on which a meeting's first rank listens."""
        if not self._addresses[number].done():
            self._addresses[number].set_result(address)

    async def address(self, number: int) -> str:
        """The address of the first rank. Raises `TimeoutError`."""
        return await asyncio.wait_for(asyncio.shield(self._addresses[number]), _ADDRESS_SECONDS)

    def _table(self, key: str, expected: int, patience: float) -> _Table:
        table = self._tables.get(key)
        if table is None:
            self._count += 1
            table = self._tables[key] = _Table(self._count)
            loop = asyncio.get_running_loop()
            self._addresses[table.number] = loop.create_future()
            loop.call_later(max(patience, self.patience), self._close, key, table)
        table.expected = max(table.expected, expected)
        return table

    def _close_if_all(self, key: str, table: _Table) -> None:
        all_machines = self._machines - self._served.get(key, set()) <= set(table.machines)
        if all_machines or 0 < table.expected <= table.came + len(table.machines):
            self._close(key, table)

    def _close(self, key: str, table: _Table) -> None:
        if self._tables.get(key) is table:
            del self._tables[key]
        self._served.setdefault(key, set()).update(table.machines)
        table.closed.set()


class OnRay:
    """Meetings in an actor, which the first machine to come starts."""

    def __init__(self, machines: Sequence[str]) -> None:
        import ray

        actor = ray.remote(Meetings).options(name="meetings", namespace=NAMESPACE, get_if_exists=True, num_cpus=0)
        self._actor: Any = actor.remote(list(machines))

    def come(self, key: str, joint: Joint) -> None:
        """Count as one of those who begin together."""
        self._asked("come", key, joint.workers, joint.patience, patience=joint.patience)

    def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
        """Wait for others; a meeting of one if the actor is lost."""
        expected, patience = (joint.workers, joint.patience) if joint else (0, 0.0)
        return Seat(*self._asked("meet", key, machine, expected, patience, patience=patience))

    def open(self, number: int, address: str) -> None:
        """Publish the address on which the first rank listens."""
        self._asked("open", number, address)

    def address(self, number: int) -> str:
        """The address of the first rank. Raises `CollectiveError`."""
        return str(self._asked("address", number))

    def _asked(self, method: str, *words: object, patience: float = 0.0) -> Any:
        import ray

        longest = max(PATIENCE, patience) + _ADDRESS_SECONDS

        try:
            return ray.get(getattr(self._actor, method).remote(*words), timeout=longest)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise CollectiveError(f"machines could not meet: {type(error).__name__}") from error


def cluster_staging() -> Staging | None:
    """The staging for this machine of a cluster; None outside a cluster, or if only one machine is in use."""
    import ray

    if not ray.is_initialized():
        return None
    working = [node for node in ray.nodes() if node["Alive"] and {"CPU", "GPU"} & node["Resources"].keys()]
    if len(working) < 2:
        return None
    machine = ray.get_runtime_context().get_node_id()
    folder = _MEMORY / f"staged-symmoe-{os.getuid()}" / machine[:12]
    place = Place(machine, ray.util.get_node_ip_address(), folder)
    return Staging(place, OnRay([node["NodeID"] for node in working]), available_memory)


def on_cluster(assembly: Assembly) -> Assembly:
    """An assembly that stages its models together with the other machines of this process's cluster."""
    if assembly.pool.engine.kind == "vllm":
        assembly.staging = cluster_staging()
    return assembly


def staged_load(assembly: Assembly, expert: str, joint: Joint | None = None) -> Load:
    """Make an expert ready after staging its model here if need be, in a `joint` step together with others.

    The load's reason also says how the model came.
    """
    staged = assembly.stage(expert, joint)
    load = assembly.loader.ready(expert)
    if staged is None:
        return load
    return replace(
        load,
        seconds=load.seconds + staged.seconds,
        bytes=max(load.bytes, staged.nbytes),
        reason=f"{load.reason}; {staged.way}: {staged.reason}",
        saved=staged.saved,
        rates=staged.rates,
    )
