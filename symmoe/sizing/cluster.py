"""The sizes of everything in a cluster, from a pool, an accelerator and a number of nodes, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from symmoe.config import EngineConfig, Pool
from symmoe.errors import CapacityError, PoolError
from symmoe.sizing.architecture import Architecture, architectures, shape_groups
from symmoe.sizing.fitting import CPU, GB, Accelerator, Need, accelerator, needs, remedies, splits

GIB = 1 << 30
RUNTIME_GIB = {CPU: 4, "accelerator": 8}
"""Memory of a process with torch, vLLM and a tokenizer, beside weights and caches. Assumed, not measured."""
OBJECT_STORE_GIB = 0.25
"""Ray's object store in a pod: only questions and answers travel."""
_CPUS_CPU, _CPUS_ACCELERATOR = 4, 4


@dataclass(frozen=True, slots=True)
class Number:
    """One size, and its reason."""

    name: str
    value: float
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A sized cluster. A worker pod holds one expert replica: one engine on `split` accelerators, or on the CPU.

    `pool` is the pool with open settings filled in. `needs` is empty on the CPU; `groups` are experts that can share
    one engine; `notes` are what to check before going live. `device_gib` is the memory that an accelerator must have
    for the largest expert, 0 on the CPU.
    """

    pool: Pool
    accelerator: Accelerator | None
    nodes: int
    split: int
    replicas: int
    cpus: int
    memory_gib: int
    shared_gib: float
    disk_gib: int
    device_gib: int
    needs: tuple[Need, ...]
    groups: tuple[tuple[str, ...], ...]
    numbers: tuple[Number, ...]
    notes: tuple[str, ...]


def size_cluster(
    pool: Pool, kind: str, nodes: int, per_node: int = 1, node_cpus: int = 0, node_gib: int = 0
) -> Cluster:
    """Size a cluster of `nodes` with `per_node` accelerators of a kind each, or none if the kind is `cpu`.

    `node_cpus` and `node_gib` are what pods can have of a node, if known: pods then ask for no more, and the host tier
    is smaller where the pool file leaves it open. Raises `CapacityError`, whose hint says what would fit,
    `CheckpointError` for a model of unknown size, `PoolError` for a pool without weights.
    """
    if not pool.engine.runs_models:
        raise PoolError(f"pool {pool.name!r} has {pool.engine.kind} experts, which have no weights to size")
    dedicated = [expert.name for expert in pool.experts if expert.dedicated is not None]
    if dedicated:
        raise PoolError(
            f"{', '.join(dedicated)}: no room is sized for engines of their own",
            hint="size the pool without `dedicated`, and add their pods by hand",
        )
    models = architectures(pool)
    if not models:
        raise PoolError(f"all experts of pool {pool.name!r} are served by others: there is nothing to size")
    on = None if kind.lower() == CPU else accelerator(kind)
    split = 1 if on is None else _split(pool, models, on, per_node)
    a_node = per_node // split if on else 1
    other = RUNTIME_GIB["accelerator"] + OBJECT_STORE_GIB + (1 if split > 1 else 0)
    room = node_gib // a_node - other if on and node_gib else None
    tier, tier_why = _host_tier(pool, models, room)
    engine = pool.engine.model_copy(update={"host_tier_gib": tier, "tensor_parallel_size": split})
    pool = pool.model_copy(update={"engine": engine})
    replicas = nodes * a_node
    shared = tier + OBJECT_STORE_GIB + (1 if split > 1 else 0)
    memory, memory_why = _memory(engine, models, on, shared)
    disk, disk_why = _disk(pool, models, on)
    cpus, cpus_why = _cpus(split if on else 0, node_cpus // a_node if node_cpus else None)
    if node_gib and memory > node_gib // a_node:
        raise CapacityError(
            f"a pod takes {memory} GiB of memory, a node has {node_gib} for {a_node}: {memory_why}",
            hint=f"nodes of {memory * a_node} GiB or more",
        )
    fit = needs(models, engine, on, split) if on else ()
    numbers = (
        *((Number("accelerators a replica", split, "", _split_why(fit)),) if on else ()),
        Number("replicas", replicas, "", _replicas_why(on, nodes, per_node, split)),
        Number("host tier", tier, "GiB", tier_why),
        Number("shared memory a pod", shared, "GiB", "host tier, Ray's object store" + _collectives(split)),
        Number("memory a pod", memory, "GiB", memory_why),
        Number("CPUs a pod", cpus, "", cpus_why),
        Number("volume", disk, "GiB", disk_why),
    )
    device = max((ceil((each.fixed + each.window) / engine.gpu_memory_utilization / GIB) for each in fit), default=0)
    sizes = (pool, on, nodes, split, replicas, cpus, memory, shared, disk, device)
    return Cluster(*sizes, fit, shape_groups(pool), numbers, tuple(_notes(pool, models)))


def _cpus(split: int, room: int | None) -> tuple[int, str]:
    """CPUs of a pod: fewer than would be good where a node has no more."""
    wanted = 2 + _CPUS_ACCELERATOR * split if split else _CPUS_CPU
    why = f"2, and 4 for each of {split} accelerators" if split else "4 for the engine"
    least = 1 + split if split else _CPUS_CPU
    if room is None or room >= wanted:
        return wanted, why
    if room < least:
        raise CapacityError(
            f"a pod takes {least} CPUs at least, and a node has {room} for each", hint="take larger nodes"
        )
    return room, f"all that a node has for it; better would be {wanted}: {why}"


def _split(pool: Pool, models: dict[str, Architecture], on: Accelerator, per_node: int) -> int:
    """The pool's own split, or where its file says none, the least with which everything fits."""
    stated = "tensor_parallel_size" in pool.engine.model_fields_set
    possible = splits(models, per_node)
    if stated and pool.engine.tensor_parallel_size not in possible:
        raise CapacityError(
            f"the pool's experts cannot be divided over {pool.engine.tensor_parallel_size} accelerators of a node "
            f"with {per_node}",
            hint=f"engine.tensor_parallel_size can be: {', '.join(map(str, possible))}",
        )
    tried = (pool.engine.tensor_parallel_size,) if stated else possible
    for split in tried:
        if not any(each.short for each in needs(models, pool.engine, on, split)):
            return split
    raise _refusal(pool, models, on, tried[-1], per_node)


def _refusal(pool: Pool, models: dict[str, Architecture], on: Accelerator, split: int, node: int) -> CapacityError:
    """Names each expert that does not fit and what it lacks; the hint says what would fit."""
    lacking = [each for each in needs(models, pool.engine, on, split) if each.short]
    split_note = f" split over {split}" if split > 1 else ""
    details = "; ".join(
        f"{each.expert} needs {(each.fixed + each.window) / GB:.1f} GB (weights {each.weights / GB:.1f}, "
        f"keys and values of one request {each.window / GB:.1f}) of {each.budget / GB:.1f}"
        for each in lacking
    )
    hints = remedies(models, pool.engine, on, split, node)
    return CapacityError(
        f"{len(lacking)} of {len(models)} experts do not fit {on.name} of {on.memory_gb} GB{split_note}: {details}",
        hint=f"any of these would fit: {'; '.join(hints)}" if hints else "take larger accelerators and more of them",
    )


def _host_tier(pool: Pool, models: dict[str, Architecture], room: float | None) -> tuple[float, str]:
    """GiB of the host tier. Left open, the two largest images: one that is read while the next is built.

    Where there is no `room` for two, one.
    """
    sizes = sorted(((model.weight_bytes, name) for name, model in models.items()), reverse=True)
    largest, everything = sizes[0], sum(size for size, _ in sizes)
    if "host_tier_gib" in pool.engine.model_fields_set:
        if pool.engine.host_tier_gib * GIB < largest[0]:
            raise CapacityError(
                f"engine.host_tier_gib is {pool.engine.host_tier_gib:g}; {largest[1]} has {largest[0] / GIB:.1f} GiB",
                hint=f"set it to {ceil(largest[0] / GIB)} or more, or leave it out",
            )
        return pool.engine.host_tier_gib, "as the pool file says"
    tier = float(ceil(sum(size for size, _ in sizes[:2]) * 1.02 / GIB))
    one = float(ceil(largest[0] * 1.02 / GIB))
    if room is not None and one <= room < tier:
        return float(int(room)), f"all that a node has for it: {largest[1]} fits; {tier:g} would be better"
    if tier * GIB >= everything or len(sizes) < 3:
        return tier, "holds every expert"
    return tier, (
        f"the two largest, {sizes[0][1]} and {sizes[1][1]}: one is read while the next is built; "
        f"{ceil(everything * 1.02 / GIB)} would hold all of them"
    )


def _memory(
    engine: EngineConfig, models: dict[str, Architecture], on: Accelerator | None, shared: float
) -> tuple[int, str]:
    if on:
        runtime = RUNTIME_GIB["accelerator"]
        return ceil(runtime + shared), f"{runtime} for the processes, and shared memory, which counts as the pod's"
    weights = max(model.weight_bytes for model in models.values()) / GIB
    runtime = RUNTIME_GIB[CPU]
    parts = (runtime, weights, engine.kv_cache_gib, engine.kernel_cache_gib, shared)
    return ceil(sum(parts)), (
        f"{runtime} for the processes, {weights:.1f} weights, {engine.kv_cache_gib:g} keys and values, "
        f"{engine.kernel_cache_gib:g} kernel cache, and shared memory"
    )


def _disk(pool: Pool, models: dict[str, Architecture], on: Accelerator | None) -> tuple[int, str]:
    """GiB of the volume: every checkpoint once; on the CPU also every expert packed."""
    by_source = {expert.model: models[expert.name].weight_bytes for expert in pool.experts if expert.name in models}
    checkpoints = sum(by_source.values())
    packed = 0 if on else sum(model.weight_bytes for model in models.values())
    why = f"{len(by_source)} checkpoints of {checkpoints / GIB:.1f} GiB together"
    why += f", {len(models)} experts packed in {packed / GIB:.1f}" if packed else ""
    return ceil((checkpoints + packed) * 1.25 / GIB) + 4, f"{why}, a quarter more for the next revision, 4 for the rest"


def _split_why(fit: tuple[Need, ...]) -> str:
    tightest = min(fit, key=lambda each: each.cache - each.window)
    return (
        f"the least with which all fit; tightest is {tightest.expert}: {tightest.weights / GB:.1f} GB weights, "
        f"{tightest.activations / GB:.1f} activations, {tightest.reserve / GB:.1f} reserve, "
        f"{tightest.cache / GB:.1f} left for keys and values ({tightest.windows:.1f} requests of the longest length)"
    )


def _replicas_why(on: Accelerator | None, nodes: int, per_node: int, split: int) -> str:
    if on is None:
        return f"one a node, {nodes} nodes"
    return f"{nodes} nodes of {per_node} {on.name}, {split} for each replica"


def _collectives(split: int) -> str:
    return ", 1 GiB for collectives" if split > 1 else ""


def _notes(pool: Pool, models: dict[str, Architecture]) -> list[str]:
    length = pool.engine.max_model_len
    small = {name: model.window for name, model in models.items() if model.window < length}
    notes = [
        f"{name} was made for {window} tokens: it is given no more of the {length} of engine.max_model_len"
        for name, window in small.items()
    ]
    if pool.routing.profiles is None:
        notes.append("the pool names no profiles: experts are chosen by their descriptions (`symmoe profile build`)")
    code = [expert.name for expert in pool.experts if expert.trust_remote_code]
    if code:
        notes.append(f"{', '.join(code)}: runs code that ships with the model")
    return notes
