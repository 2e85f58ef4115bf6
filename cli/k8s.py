"""`symmoe k8s`: size a pool for Kubernetes, and write manifests for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from json import dumps as to_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.build import Assembly
    from symmoe.manifests.rendering import Manifest
    from symmoe.manifests.values import Values
    from symmoe.sizing.cluster import Cluster

app = typer.Typer(help="Size a pool for Kubernetes and write its manifests.", no_args_is_help=True)
_GB = 10**9


PoolFile = Annotated[str | None, typer.Option("--pool", "-p", help="A shipped pool or a pool file.")]
Accelerator = Annotated[
    str | None, typer.Option("--accelerator", help="L4, A10, A100-40, L40S, A100-80, H100, H200, B200; or cpu.")
]
Nodes = Annotated[int | None, typer.Option("--nodes", help="Nodes that run experts.")]
PerNode = Annotated[int | None, typer.Option("--gpus-per-node", help="Accelerators of each node.")]
WithoutKeys = Annotated[
    bool | None, typer.Option("--without-keys/--keys", help="For a trial: anybody who reaches the service may use it.")
]
ValuesFile = Annotated[
    Path | None,
    typer.Option("--values", help="The settings of the installation; default: OUT/values.yaml, if it exists."),
]


@app.command("render")
def render(
    pool: PoolFile = None,
    accelerator: Accelerator = None,
    nodes: Nodes = None,
    per_node: PerNode = None,
    without_keys: WithoutKeys = None,
    values: ValuesFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write files for kubectl and Helm to this folder instead of printing manifests."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write manifests sized for the pool, with the reason for each number; if it cannot fit, say what would.

    All other settings are in values.yaml: the first rendering writes it, later ones keep it, and options change it.
    """
    from symmoe.manifests.rendering import MANIFESTS, render, write_installation

    from .render import show, show_json

    settings = _settings(values, out, pool, accelerator, nodes, per_node, without_keys)
    if out is None:
        manifests = render(settings.values)
        if json:
            show_json(_facts(settings) | {"manifests": manifests})
        else:
            typer.echo(_stream(settings, manifests), nl=False)
        return
    before = _manifests(out / MANIFESTS)
    written = write_installation(out, settings.text, settings.values)
    after = _manifests(out / MANIFESTS)
    if json:
        show_json(_facts(settings) | {"kustomization": str(written), **_change_facts(before, after)})
        return
    show(*_size_tables(settings), *(_change_lines(before, after, settings.values.namespace) if before else ()))
    show(
        f"apply it with: kubectl apply -k {out}",
        f"or: helm upgrade --install symmoe {out}/chart {_helm(out, settings)}",
    )


@app.command("diff")
def diff(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that `render` wrote for the cluster.")],
    pool: PoolFile = None,
    accelerator: Accelerator = None,
    nodes: Nodes = None,
    per_node: PerNode = None,
    without_keys: WithoutKeys = None,
    values: ValuesFile = None,
    json: options.Json = False,
) -> None:
    """Show what rendering again would change, and what would restart because of it. Writes nothing."""
    from symmoe.errors import RequestError
    from symmoe.manifests.rendering import MANIFESTS, render

    from .render import show, show_json

    before = _manifests(out / MANIFESTS)
    if not before:
        message = f"{out / MANIFESTS} does not exist: nothing was rendered to this folder yet"
        raise RequestError(message, code="bad_option", hint=f"symmoe k8s render --out {out}")
    settings = _settings(values, out, pool, accelerator, nodes, per_node, without_keys)
    after = render(settings.values)
    if json:
        show_json(_change_facts(before, after))
    else:
        show(*_change_lines(before, after, settings.values.namespace))


@dataclass(frozen=True)
class _Settings:
    """The operator's settings, as text and as values, the cluster sized for them, and directories to copy."""

    text: str
    values: Values
    cluster: Cluster
    copies: dict[str, str]


def _settings(
    file: Path | None,
    out: Path | None,
    pool: str | None,
    accelerator: str | None,
    nodes: int | None,
    per_node: int | None,
    without_keys: bool | None,
) -> _Settings:
    """The values of the file, if there is one, with the options in place of its own, and the sizes that follow."""
    import os

    from symmoe.config import read_pool
    from symmoe.manifests.rendering import SIZED, VALUES, local_sources, sized_values
    from symmoe.manifests.values import changed_values, read_values, values_text
    from symmoe.sizing.cluster import size_cluster

    file = file or (out / VALUES if out else None)
    beside = file.parent if file else Path()
    if pool is not None and Path(pool).is_file():
        pool = os.path.relpath(pool, beside)
    keys = None if without_keys is None else not without_keys
    options = {"pool": pool, "accelerator": accelerator, "nodes": nodes, "gpus_per_node": per_node, "keys": keys}
    given = {name: value for name, value in options.items() if value is not None}
    if file is not None and file.exists():
        text = file.read_text(encoding="utf-8")
        text = changed_values(text, given, str(file)) if given else text
        values = read_values(text, str(file))
    else:
        values = read_values(to_json({"create_namespace": True, **given}), "options")
        text = values_text(values)
    pool_path = Path(os.path.normpath(beside / values.pool))  # the folder may not exist yet
    config = read_pool(str(pool_path) if pool_path.is_file() else values.pool)
    sizes = (values.accelerator, values.nodes, values.gpus_per_node, values.node_cpus, values.node_memory_gib)
    cluster = size_cluster(config, *sizes)
    before = None
    if out is not None and (out / SIZED).exists():
        before = read_values((out / SIZED).read_text(encoding="utf-8"), str(out / SIZED))
    return _Settings(text, sized_values(values, cluster, before), cluster, local_sources(config))


@app.command("sizes")
def sizes(pool: options.Pool = "starter", json: options.Json = False) -> None:
    """Show the memory that each expert needs, and the smallest accelerator that can run it alone."""
    from symmoe.config import read_pool
    from symmoe.sizing.architecture import architectures

    from .render import in_lines, show, show_json, table

    config = read_pool(pool)
    models = architectures(config)
    smallest = {name: _smallest(config, name, model) for name, model in models.items()}
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
        show_json({"pool": config.name, "experts": facts})
        return
    length = config.engine.max_model_len
    rows = [
        (
            in_lines(name, 24),
            f"{model.parameters / 1e9:.2f}",
            f"{model.weight_bytes / _GB:.1f}",
            f"{model.kv_bytes() / 1024:.0f}",
            f"{min(length, model.window) * model.kv_bytes() / _GB:.1f}",
            smallest[name] or "none",
        )
        for name, model in models.items()
    ]
    sizes = ("10⁹ para-\nmeters", "weights,\nGB", "KV a\ntoken,\nKiB", f"KV of\n{length}\ntokens,\nGB")
    columns = ("expert", *sizes, "runs on")
    show(table(f"Sizes of {config.name}", columns, rows, right=(1, 2, 3, 4), whole=range(6)))


@app.command("fetch")
def fetch(
    pool: options.Pool = "starter",
    pack: Annotated[
        bool, typer.Option("--pack", help="Also pack every expert, for engines on CPUs, which map the packs.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Succeed if at least one expert could be fetched; report the others.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch the weights of experts, embedder and reward model into the cache, as pods do before their engine starts."""
    from symmoe.build import Assembly, beside_experts
    from symmoe.config import read_pool
    from symmoe.errors import PoolError, SymmoeError

    from .pool import pack as pack_pool
    from .render import show, show_json, tell

    config = read_pool(pool)
    if not config.engine.runs_models:
        raise PoolError(f"pool {config.name!r} has {config.engine.kind} experts, which have no weights to fetch")
    assembly = Assembly(config)
    own = [expert.name for expert in config.experts if expert.remote is None]
    parts: dict[str, Callable[[], str | Path]] = {name: partial(_weights, assembly, name) for name in own}
    found, missing = {}, {}
    for name, locate in {**parts, **beside_experts(config)}.items():
        try:
            found[name] = str(locate())
            tell(f"{name}: {found[name]}")
        except SymmoeError as error:
            missing[name] = error
            tell(f"{name}: missing: {error}{f' ({error.hint})' if error.hint else ''}")
    available = [name for name in own if name in found]
    if missing and (not leave_out or not available):
        raise next(iter(missing.values()))
    if pack:
        pack_pool(pool=pool, out=None, experts=available, verify=False, json=json)
    elif json:
        show_json({"pool": config.name, "models": found, "missing": {name: str(why) for name, why in missing.items()}})
    else:
        show(f"{config.name}: weights of {len(available)} experts in the cache, of {len(own) - len(available)} missing")


def _weights(assembly: Assembly, name: str) -> str:
    return assembly.weights(name).model


def _smallest(pool: Any, name: str, model: Any) -> str | None:
    """The accelerator with the least memory that holds the whole expert; None if no accelerator does."""
    from symmoe.sizing.fitting import ACCELERATORS, need

    fitting = [on for on in ACCELERATORS.values() if not need(name, model, pool.engine, on, 1).short]
    return min(fitting, key=lambda on: on.memory_gb).name if fitting else None


def _manifests(file: Path) -> list[Manifest]:
    """The manifests in a file; none if it does not exist."""
    from symmoe.yaml_text import load_yamls

    if not file.exists():
        return []
    return [each for each in load_yamls(file.read_text(encoding="utf-8")) if each]


def _helm(out: Path, settings: _Settings) -> str:
    return (
        f"--namespace {settings.values.namespace} -f {out}/values.yaml -f {out}/sized.yaml --set create_namespace=false"
    )


def _change_facts(before: list[Manifest], after: list[Manifest]) -> dict[str, Any]:
    from dataclasses import asdict

    from symmoe.manifests.changes import changes, patches

    return {"changes": [asdict(each) for each in changes(before, after)], "patch": patches(before, after)}


def _change_lines(before: list[Manifest], after: list[Manifest], namespace: str) -> list[Any]:
    """The differences between two renderings and their effects, as lines of text: paths are longer than columns."""
    from symmoe.manifests.changes import changes, patches

    from .render import coloured

    found = changes(before, after)
    if not found:
        return ["nothing changes"]
    parts: list[Any] = [coloured("Changes", "bold")]
    for each in found:
        parts += [f"{each.what}: {each.how}, {each.effect}", *(f"  {place}" for place in each.places)]
    patch = patches(before, after)
    if patch and all(each.effect != "new cluster" for each in found):
        parts.append(
            "KubeRay does not change the numbers of pods of a running cluster; after applying, patch them:\n"
            f"kubectl -n {namespace} patch raycluster $(kubectl -n {namespace} get rayservice symmoe "
            f"-o jsonpath='{{.status.activeServiceStatus.rayClusterName}}') --type=json -p '{patch}'"
        )
    return parts


def _facts(settings: _Settings) -> dict[str, Any]:
    from dataclasses import asdict

    cluster = settings.cluster
    return {
        "pool": cluster.pool.name,
        "accelerator": cluster.accelerator.name if cluster.accelerator else "cpu",
        "replicas": cluster.replicas,
        "numbers": [asdict(number) for number in cluster.numbers],
        "experts": [asdict(each) for each in cluster.needs],
        "groups": cluster.groups,
        "notes": cluster.notes,
        "copy_to_volume": settings.copies,
    }


def _notes(settings: _Settings) -> list[str]:
    """Notes on the sizes, and the directories to copy to the volume."""
    cluster = settings.cluster
    swaps = [", ".join(group) for group in cluster.groups if len(group) > 1]
    lines = [f"swapped in one engine: {group}" for group in swaps]
    alone = sum(len(group) == 1 for group in cluster.groups)
    if alone > 1:
        lines.append(f"{alone} experts share their shape with no other: the engine is rebuilt for each")
    lines += [f"note: {note}" for note in cluster.notes]
    lines.append(
        "Ray requires a token: KubeRay (1.5.1 or newer, in the namespace kuberay) makes its Secret with each RayCluster"
    )
    return lines + [
        f"copy {source} to {target} on the volume symmoe-models" for source, target in settings.copies.items()
    ]


def _size_tables(settings: _Settings) -> list[Any]:
    """Every size with its reason, and the memory of each accelerator, as tables."""
    from .render import in_lines, table

    cluster = settings.cluster

    where = f"{cluster.nodes} nodes, {cluster.accelerator.name if cluster.accelerator else 'cpu'}"
    rows = [(number.name, f"{number.value:g} {number.unit}".strip(), number.why) for number in cluster.numbers]
    parts: list[Any] = [table(f"{cluster.pool.name} on {where}", ("what", "size", "why"), rows, right=(1,))]
    if cluster.needs:
        columns = ("expert", "weights", "acti-\nvations", "reserve", "left\nfor KV", "KV a\nrequest", "at\nonce")
        need_rows = [
            (
                in_lines(each.expert, 19),
                *(
                    f"{size / _GB:.1f}"
                    for size in (each.weights, each.activations, each.reserve, each.cache, each.window)
                ),
                f"{each.windows:.1f}",
            )
            for each in cluster.needs
        ]
        parts.append(table("On each accelerator, GB", columns, need_rows, right=range(1, 7), whole=range(7)))
    return parts + _notes(settings)


def _stream(settings: _Settings, manifests: list[Manifest]) -> str:
    """Manifests for `kubectl apply -f -`, after comments with the reasons for the sizes."""
    from symmoe.manifests.values import to_yaml

    lines = [f"{n.name}: {f'{n.value:g} {n.unit}'.strip()} ({n.why})" for n in settings.cluster.numbers]
    comments = "".join(f"# {line}\n" for line in [*lines, *_notes(settings)])
    return comments + to_yaml(manifests)
