"""`symmoe pool`: what experts there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

app = typer.Typer(help="List, show, check and write pool files.", no_args_is_help=True)
Named = Annotated[str, typer.Argument(metavar="POOL", help="starter, a preset's name, or a pool file.")]


@app.command("list")
def list_pools(json: options.Json = False) -> None:
    """List the pools that symmoe ships."""
    from symmoe.config import PRESETS, STARTER, read_pool

    from .render import show, show_json, table

    pools = [read_pool(name) for name in (STARTER, *PRESETS)]
    if json:
        show_json([{"name": p.name, "experts": len(p.experts), "description": p.description} for p in pools])
        return
    rows = [(p.name, len(p.experts), p.description) for p in pools]
    show(table("Pools", ("name", "experts", "description"), rows, right=(1,)))


@app.command("show")
def show_pool(pool: Named = "starter", json: options.Json = False) -> None:
    """Show a pool's experts, with the accuracy that trained adapters were measured at."""
    from symmoe.config import read_pool

    from .render import show, show_json, table

    described = read_pool(pool)
    cards = {expert.name: _card(described, expert) for expert in described.experts}
    if json:
        show_json(described.model_dump(mode="json") | {"cards": {name: card for name, card in cards.items() if card}})
        return
    rows = [(e.name, e.model, e.adapter or "", _accuracy(cards[e.name]), e.description) for e in described.experts]
    columns = ("expert", "model", "adapter", "test %", "description")
    show(table(f"Pool {described.name}: {described.description}", columns, rows, right=(3,)))


@app.command("check")
def check(pool: Named = "starter", json: options.Json = False) -> None:
    """Check a pool file and every local file that it names; downloads nothing and loads no model."""
    from symmoe.build import check_weights
    from symmoe.config import read_pool

    from .render import show, show_json, working

    described = read_pool(pool)
    with working("checking"):
        notes = check_weights(described)
    if json:
        show_json({"pool": described.name, "experts": len(described.experts), "ok": True, "notes": notes})
        return
    show(f"{described.name}: {len(described.experts)} experts, all good", *(f"  note: {note}" for note in notes))


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write.")] = Path("pool.yaml"),
    preset: Annotated[str, typer.Option("--preset", help="Which shipped pool to begin from.")] = "small-2026",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: options.Json = False,
) -> None:
    """Write a pool file to edit, from a preset."""
    from symmoe.config import STARTER, shipped_pool
    from symmoe.errors import PoolError

    from .render import show, show_json

    origin = shipped_pool(preset)
    if path.exists() and not force:
        raise PoolError(f"{path} exists", hint="name another file, or use --force")
    text = origin.read_text(encoding="utf-8")
    if preset == STARTER:
        text = text.replace("adapter: ./adapters/", f"adapter: {origin.parent}/adapters/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if json:
        show_json({"path": str(path), "preset": preset})
        return
    show(f"wrote {path}; check it with: symmoe pool check {path}")


def _card(pool: Any, expert: Any) -> dict[str, Any]:
    import json

    card = pool.path(expert.adapter) / "card.json" if expert.adapter else None
    loaded: dict[str, Any] = json.loads(card.read_text(encoding="utf-8")) if card and card.is_file() else {}
    return loaded


def _accuracy(card: dict[str, Any]) -> str:
    from .render import percent

    measured = card.get("accuracy", {}).get("own")
    return "" if measured is None else percent(measured)
