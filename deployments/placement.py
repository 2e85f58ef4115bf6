"""The resources that one worker claims of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from symmoe.errors import JobError

Resources = Mapping[str, float]


def claim(machines: Sequence[Resources], workers: int, accelerators: int) -> dict[str, float]:
    """One worker's claim: accelerators where there are any, otherwise as many CPUs as all workers can have.

    `machines` are the resources of each, as Ray counts them (`CPU`, `GPU`). `accelerators` is 0 for an engine that uses
    none. Raises `JobError` if not that many workers fit.
    """
    if accelerators and any(machine.get("GPU", 0) >= 1 for machine in machines):
        return _checked({"num_cpus": 1, "num_gpus": accelerators}, machines, workers)
    most = int(max((machine.get("CPU", 0) for machine in machines), default=0))
    shares = ({"num_cpus": float(cpus)} for cpus in range(max(most, 1), 0, -1))
    share = next((share for share in shares if _fitting(share, machines) >= workers), {"num_cpus": 1.0})
    return _checked(share, machines, workers)


def stated(cpus: float | None, accelerators: float | None) -> dict[str, float]:
    """The claim that an operator states, whatever machines there are yet: they join as replicas ask for them.

    One CPU if only accelerators are stated. Raises `JobError` for a claim that is zero or negative.
    """
    share = {"num_cpus": 1.0 if cpus is None else float(cpus), "num_gpus": float(accelerators or 0)}
    if min(share.values()) < 0 or not any(share.values()):
        raise JobError(
            f"a replica cannot claim {share['num_cpus']:g} CPUs and {share['num_gpus']:g} accelerators",
            hint="state `cpus`, `accelerators`, or neither",
        )
    return {name: amount for name, amount in share.items() if amount or name == "num_cpus"}


def left(machines: Sequence[Resources], shares: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """What is left of the machines when each share, in Ray's terms, is taken from the roomiest machine.

    Raises `JobError` for a share that no machine has.
    """
    free = [dict(machine) for machine in machines]
    for share in shares:
        fitting = [each for each in free if all(each.get(kind, 0) >= amount for kind, amount in share.items())]
        if not fitting:
            description = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
            raise JobError(
                f"no machine has {description} left for a dedicated expert or a reward replica",
                hint="ask for fewer of them, or for fractions of accelerators (`accelerators`, `reward_accelerators`)",
            )
        roomiest = max(fitting, key=lambda each: tuple(each.get(kind, 0) for kind in ("GPU", "CPU") if kind in share))
        roomiest |= {kind: roomiest[kind] - amount for kind, amount in share.items()}
    return free


def dealt(machines: Mapping[str, Resources], share: Mapping[str, float], workers: int) -> list[str]:
    """The machine for each of so many workers with the share that `claim` returns: always the roomiest one left."""
    kinds = {"CPU": share["num_cpus"], "GPU": share.get("num_gpus", 0)}
    kinds = {kind: amount for kind, amount in kinds.items() if amount}
    free = {name: dict(machine) for name, machine in machines.items()}

    def room(name: str) -> float:
        return min(free[name].get(kind, 0) // amount for kind, amount in kinds.items())

    places = []
    for _ in range(workers):
        place = max(sorted(free), key=room)
        for kind, amount in kinds.items():
            free[place][kind] = free[place].get(kind, 0) - amount
        places.append(place)
    return places


def _checked(share: dict[str, float], machines: Sequence[Resources], workers: int) -> dict[str, float]:
    fitting = _fitting(share, machines)
    if fitting < workers:
        description = " and ".join(f"{amount:g} {name.removeprefix('num_').upper()}" for name, amount in share.items())
        raise JobError(f"there is room for {fitting} workers of {description}, not for {workers}", hint="ask for fewer")
    return share


def _fitting(share: Mapping[str, float], machines: Sequence[Resources]) -> int:
    kinds = {"CPU": share["num_cpus"], "GPU": share.get("num_gpus", 0)}
    return sum(
        min(int(machine.get(kind, 0) // amount) for kind, amount in kinds.items() if amount) for machine in machines
    )
