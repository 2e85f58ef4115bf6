"""`symmoe k8s`: what a pool takes on Kubernetes, and the manifests for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.manifests.building import Manifest
    from symmoe.sizing.cluster import Cluster

app = typer.Typer(help="Size a pool for Kubernetes and write its manifests.", no_args_is_help=True)
_GB = 10**9


@app.callback()
def _group() -> None:
    """Size a pool for Kubernetes and write its manifests."""


@app.command("render")
def render(
    pool: options.Pool = "starter",
    accelerator: Annotated[
        str, typer.Option("--accelerator", help="L4, A10, A100-40, L40S, A100-80, H100, H200, B200; or cpu.")
    ] = "cpu",
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=1024, help="Nodes that run experts.")] = 1,
    per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, max=16, help="Accelerators of each.")] = 1,
    least: Annotated[int, typer.Option("--least", min=0, help="Expert replicas that stay where nobody asks.")] = 1,
    production: Annotated[bool, typer.Option("--production", help="Redis elsewhere, and an Ingress.")] = False,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="For a try-out: who reaches the service may ask it.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write kustomizations here instead of printing manifests.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Manifests sized from the pool, with the reason for each number; refuses what cannot fit and says what would."""
    from symmoe.config import read_pool
    from symmoe.errors import RequestError
    from symmoe.manifests.sized import local_sources
    from symmoe.sizing.cluster import size_cluster

    from .render import show, show_json

    described = read_pool(pool)
    cluster = size_cluster(described, accelerator, nodes, per_node)
    if production and cluster.accelerator is None:
        raise RequestError("the production overlay needs an accelerator", code="bad_option", hint="name one")
    if production and without_keys:
        raise RequestError("the production overlay has an Ingress, and needs keys", code="bad_option")
    copies = local_sources(described)
    if out is not None:
        overlay = _written(out, cluster, least, production, not without_keys)
        if json:
            show_json(_facts(cluster, copies) | {"overlay": str(overlay)})
            return
        show(*_told(cluster, copies), f"apply it with: kubectl apply -k {overlay}")
        return
    manifests = _manifests(cluster, least, production, not without_keys)
    if json:
        show_json(_facts(cluster, copies) | {"manifests": manifests})
        return
    typer.echo(_stream(cluster, copies, manifests), nl=False)


@app.command("sizes")
def sizes(pool: options.Pool = "starter", json: options.Json = False) -> None:
    """What each expert takes in memory, and the smallest accelerator that runs it alone."""
    from symmoe.config import read_pool
    from symmoe.sizing.architecture import architectures

    from .render import show, show_json, table

    described = read_pool(pool)
    models = architectures(described)
    smallest = {name: _smallest(described, name, model) for name, model in models.items()}
    facts = [
        {
            "expert": name,
            "parameters": model.parameters,
            "weight_bytes": model.weight_bytes,
            "kv_bytes_per_token": model.kv_bytes(),
            "smallest": smallest[name],
        }
        for name, model in models.items()
    ]
    if json:
        show_json({"pool": described.name, "experts": facts})
        return
    length = described.engine.max_model_len
    rows = [
        (
            name,
            f"{model.parameters / 1e9:.2f}",
            f"{model.weight_bytes / _GB:.1f}",
            f"{model.kv_bytes() / 1024:.0f}",
            f"{min(length, model.window) * model.kv_bytes() / _GB:.1f}",
            smallest[name] or "none",
        )
        for name, model in models.items()
    ]
    columns = ("expert", "parameters, 10⁹", "weights, GB", "KV a token, KiB", f"KV of {length} tokens, GB", "runs on")
    show(table(f"Sizes of {described.name}", columns, rows, right=(1, 2, 3, 4)))


@app.command("fetch")
def fetch(
    pool: options.Pool = "starter",
    pack: Annotated[bool, typer.Option("--pack", help="Pack every expert too, which engines on CPUs map.")] = False,
    json: options.Json = False,
) -> None:
    """Have every expert's weights in the cache, fetched or prepared; a pod runs it before its engine starts."""
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.errors import PoolError

    from .pool import pack as pack_pool
    from .render import show, show_json, tell

    described = read_pool(pool)
    if not described.engine.runs_models:
        raise PoolError(f"pool {described.name!r} has {described.engine.kind} experts, which have no weights to fetch")
    assembly = Assembly(described)
    found = {}
    for name in (expert.name for expert in described.experts if expert.remote is None):
        found[name] = assembly.weights(name).model
        tell(f"{name}: {found[name]}")
    if pack:
        pack_pool(pool=pool, out=None, experts=None, verify=False, json=json)
    elif json:
        show_json({"pool": described.name, "models": found})
    else:
        show(f"{described.name}: the weights of {len(found)} experts are here")


def _smallest(pool: Any, name: str, model: Any) -> str | None:
    """The accelerator with the least memory on which an expert fits unsplit."""
    from symmoe.sizing.fitting import ACCELERATORS, need

    fitting = [on for on in ACCELERATORS.values() if not need(name, model, pool.engine, on, 1).short]
    return min(fitting, key=lambda on: on.memory_gb).name if fitting else None


def _written(folder: Path, cluster: Cluster, least: int, production: bool, keys: bool) -> Path:
    """Write kustomizations; which of them to apply."""
    from importlib.resources import as_file, files

    from symmoe.manifests.sized import write_overlay

    with as_file(files("symmoe.k8s")) as shipped:
        overlay = write_overlay(shipped, folder, cluster, least, keys)
    return overlay.with_name("production") if production else overlay


def _manifests(cluster: Cluster, least: int, production: bool, keys: bool) -> list[Manifest]:
    from tempfile import TemporaryDirectory

    from symmoe.manifests.building import build

    with TemporaryDirectory() as folder:
        return build(_written(Path(folder), cluster, least, production, keys))


def _facts(cluster: Cluster, copies: dict[str, str]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "pool": cluster.pool.name,
        "accelerator": cluster.accelerator.name if cluster.accelerator else "cpu",
        "replicas": cluster.replicas,
        "numbers": [asdict(number) for number in cluster.numbers],
        "experts": [asdict(each) for each in cluster.needs],
        "groups": cluster.groups,
        "notes": cluster.notes,
        "copy_to_volume": copies,
    }


def _lines(cluster: Cluster, copies: dict[str, str]) -> list[str]:
    """Notes, and what must be copied."""
    swaps = [", ".join(group) for group in cluster.groups if len(group) > 1]
    lines = [f"swapped in one engine: {group}" for group in swaps]
    alone = sum(len(group) == 1 for group in cluster.groups)
    if alone > 1:
        lines.append(f"{alone} experts are of a shape of their own: the engine is rebuilt for each")
    lines += [f"note: {note}" for note in cluster.notes]
    lines.append(
        "Ray asks for a token: KubeRay (1.5.1 or newer, in the namespace kuberay) makes its Secret with each RayCluster"
    )
    return lines + [f"copy {here} to {there} on the volume symmoe-models" for here, there in copies.items()]


def _told(cluster: Cluster, copies: dict[str, str]) -> list[Any]:
    """Every number with its reason, as tables."""
    from .render import table

    where = f"{cluster.nodes} nodes, {cluster.accelerator.name if cluster.accelerator else 'cpu'}"
    rows = [(number.name, f"{number.value:g} {number.unit}".strip(), number.why) for number in cluster.numbers]
    parts: list[Any] = [table(f"{cluster.pool.name} on {where}", ("what", "size", "why"), rows, right=(1,))]
    if cluster.needs:
        columns = ("expert", "weights", "activations", "reserve", "left for KV", "a request's KV", "at once")
        held = [
            (
                each.expert,
                *(
                    f"{size / _GB:.1f}"
                    for size in (each.weights, each.activations, each.reserve, each.cache, each.window)
                ),
                f"{each.windows:.1f}",
            )
            for each in cluster.needs
        ]
        parts.append(table("On each accelerator, GB", columns, held, right=(1, 2, 3, 4, 5, 6)))
    return parts + _lines(cluster, copies)


def _stream(cluster: Cluster, copies: dict[str, str], manifests: list[Manifest]) -> str:
    """Manifests for `kubectl apply -f -`, the reasons before them as comments."""
    from symmoe.manifests.building import to_yaml

    lines = [f"{n.name}: {f'{n.value:g} {n.unit}'.strip()} ({n.why})" for n in cluster.numbers]
    comments = "".join(f"# {line}\n" for line in [*lines, *_lines(cluster, copies)])
    return comments + to_yaml(manifests)
