"""`symmoe pool`: list, show, check, write and pack pools."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.config import Pool as PoolFile
    from symmoe.loading.packed.layout import Layout

app = typer.Typer(help="List, show, check, write and pack pools.", no_args_is_help=True)
_MB = 1_000_000
Named = Annotated[str, typer.Argument(metavar="POOL", help="starter, tiny, a preset's name, or a pool file.")]


@app.command("list")
def list_pools(json: options.Json = False) -> None:
    """List the pools that symmoe ships."""
    from symmoe.config import PRESETS, SHIPPED, read_pool

    from .render import show, show_json, table

    pools = [read_pool(name) for name in (*SHIPPED, *PRESETS)]
    if json:
        show_json([{"name": p.name, "experts": len(p.experts), "description": p.description} for p in pools])
        return
    rows = [(p.name, len(p.experts), p.description) for p in pools]
    show(table("Pools", ("name", "experts", "description"), rows, right=(1,)))


@app.command("show")
def show_pool(pool: Named = "starter", json: options.Json = False) -> None:
    """Show a pool's experts, with the measured accuracy of trained adapters."""
    from symmoe.config import read_pool

    from .render import in_lines, show, show_json, table

    config = read_pool(pool)
    cards = {expert.name: _card(config, expert) for expert in config.experts}
    if json:
        show_json(config.model_dump(mode="json") | {"cards": {name: card for name, card in cards.items() if card}})
        return
    rows = [
        (in_lines(e.name, 20), _model(e.model, e.adapter), _accuracy(cards[e.name]), e.description)
        for e in config.experts
    ]
    columns = ("expert", "model\n+ adapter", "test\n%", "description")
    show(table(f"Pool {config.name}: {config.description}", columns, rows, right=(2,), whole=(0, 1, 2)))


@app.command("check")
def check(pool: Named = "starter", json: options.Json = False) -> None:
    """Check a pool file and all local files that it names. Downloads nothing and loads no model."""
    from symmoe.build import check_weights
    from symmoe.config import read_pool

    from .render import show_result, working

    config = read_pool(pool)
    with working("checking"):
        notes = check_weights(config)
    show_result(
        json,
        {"pool": config.name, "experts": len(config.experts), "ok": True, "notes": notes},
        f"{config.name}: {len(config.experts)} experts, all good",
        *(f"  note: {note}" for note in notes),
    )


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("pool.yaml"),
    preset: Annotated[str, typer.Option("--preset", help="The shipped pool to copy.")] = "small-2026",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    json: options.Json = False,
) -> None:
    """Write a pool file to edit: a copy of a shipped one."""
    from symmoe.config import SHIPPED, shipped_pool
    from symmoe.errors import PoolError

    from .render import show_result

    origin = shipped_pool(preset)
    if path.exists() and not force:
        raise PoolError(f"{path} exists", hint="name another file, or use --force")
    text = origin.read_text(encoding="utf-8")
    if preset in SHIPPED:
        text = text.replace("adapter: ./adapters/", f"adapter: {origin.parent}/adapters/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    show_result(json, {"path": str(path), "preset": preset}, f"wrote {path}; check it with: symmoe pool check {path}")


@app.command("pack")
def pack(
    pool: options.Pool = "starter",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the packs to this folder; default: the cache.")
    ] = None,
    experts: Annotated[list[str] | None, typer.Option("--expert", help="Pack only this expert; repeatable.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash existing packs, and write altered ones again.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write each expert's weights, with its adapter merged in, as one aligned file with checksums.

    Complete packs are kept. Packs of earlier weights are removed, and in the cache also those of experts that are no
    longer in the pool.
    """
    from symmoe.config import cache_dir, read_pool
    from symmoe.loading.packed.writing import prune

    from .render import show, show_json, table, working

    config = read_pool(pool)
    folder = out or cache_dir() / "packed" / config.name
    own = [expert.name for expert in config.experts if expert.remote is None]
    with working("checking"):
        layouts = _layouts(config, list(dict.fromkeys(experts or own)))
    packs = _pack_all(layouts, folder, verify)
    others = set(own) - layouts.keys()
    old = prune(folder, [Path(p["path"]) for p in packs], lambda name: name in layouts if out else name not in others)
    if json:
        show_json({"pool": config.name, "folder": str(folder), "packs": packs, "pruned": [str(path) for path in old]})
        return
    rows = [(p["expert"], p["state"], f"{p['bytes'] / _MB:.1f}", f"{p['seconds']:.2f}") for p in packs]
    show(table(f"Packs of {config.name}", ("expert", "state", "MB", "s"), rows, right=(2, 3)), f"in {folder}")
    if old:
        show(f"removed {len(old)} old packs")


def _layouts(pool: PoolFile, names: list[str]) -> dict[str, Layout]:
    """The pack layout of each named expert, after verifying its weights."""
    from symmoe.build import Assembly
    from symmoe.errors import PoolError
    from symmoe.loading.packed.layout import Layout
    from symmoe.loading.verify import verify_adapter, verify_model

    if not pool.engine.runs_models:
        raise PoolError(f"pool {pool.name!r} has {pool.engine.kind} experts, which have no weights to pack")
    assembly = Assembly(pool)
    weights = {pool.expert(name).name: assembly.weights(name) for name in names}
    for model in dict.fromkeys(each.model for each in weights.values()):
        verify_model(Path(model))
    for each in weights.values():
        if each.adapter:
            verify_adapter(Path(each.adapter), Path(each.model))
    return {name: Layout.of(each.model, each.adapter) for name, each in weights.items()}


def _pack_all(layouts: dict[str, Layout], folder: Path, verify: bool) -> list[dict[str, Any]]:
    """Pack each expert that has no valid pack. Returns, by expert, what was done, bytes and seconds."""
    from symmoe.loading.packed.writing import ensure_packed, packed_path

    from .render import stepping

    packs = []
    done = 0
    with stepping("packing", sum(2 * layout.nbytes for layout in layouts.values()) // _MB) as step:
        for name, layout in layouts.items():
            path = packed_path(folder, name, layout.manifest)
            began = perf_counter()

            def progress(at: int, total: int, name: str = name, before: int = done) -> None:
                step((before + at) // _MB, name)

            state = ensure_packed(layout, path, verify, progress)
            done += 2 * layout.nbytes
            step(done // _MB, name)
            facts = {"state": state, "bytes": layout.nbytes, "seconds": round(perf_counter() - began, 3)}
            packs.append({"expert": name, "path": str(path)} | facts)
    return packs


def _model(model: str, adapter: str | None) -> str:
    """A model and below it its adapter, in lines that are never cut."""
    from .render import in_lines

    return "\n".join(in_lines(each, 28) for each in (model, f"+ {adapter}" if adapter else "") if each)


def _card(pool: Any, expert: Any) -> dict[str, Any]:
    import json

    card = pool.path(expert.adapter) / "card.json" if expert.adapter else None
    loaded: dict[str, Any] = json.loads(card.read_text(encoding="utf-8")) if card and card.is_file() else {}
    return loaded


def _accuracy(card: dict[str, Any]) -> str:
    from .render import percent

    measured = card.get("accuracy", {}).get("own")
    return "" if measured is None else percent(measured)
