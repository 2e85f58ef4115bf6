"""Pool files that symmoe writes: a pool with one more expert, its paths made absolute."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from symmoe.config import ExpertConfig, Pool
from symmoe.errors import PoolError


def grown(pool: Pool, name: str, model: str, adapter: Path | None, description: str = "") -> Pool:
    """The pool with one more expert; its relative paths count from the working directory. Raises `PoolError`."""
    if name in pool.names:
        raise PoolError(f"pool {pool.name!r} has an expert {name!r} already", hint="choose another name")
    try:
        expert = ExpertConfig(
            name=name,
            model=_absolute(model, Path.cwd()),
            adapter=str(adapter.expanduser().resolve()) if adapter else None,
            description=description,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise PoolError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from error
    return pool.model_copy(update={"experts": (*pool.experts, expert)})


def write_pool(path: Path, pool: Pool, profiles: Path) -> None:
    """Write a pool file that `read_pool` reads back with the same experts, naming these profiles."""
    document = pool.model_dump(mode="json", exclude_defaults=True)
    for expert in document["experts"]:
        expert["model"] = _absolute(expert["model"], pool.root)
        if expert.get("adapter"):
            expert["adapter"] = str(pool.path(expert["adapter"]).resolve())
    routing = document.setdefault("routing", {})
    taxonomy = routing.get("taxonomy", "")
    if "/" in taxonomy or taxonomy.endswith(".yaml"):
        routing["taxonomy"] = str(pool.path(taxonomy).resolve())
    if "embedder" in routing:
        routing["embedder"] = _absolute(routing["embedder"], pool.root)
    routing["profiles"] = f"./{profiles.name}"
    if pool.aggregation.rule:
        document["aggregation"]["rule"] = str(pool.path(pool.aggregation.rule).resolve())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def _absolute(source: str, root: Path) -> str:
    prefix, local = ("static:", source.removeprefix("static:")) if source.startswith("static:") else ("", source)
    if not local.startswith(("./", "../", "/", "~")):
        return source
    return prefix + str((root / Path(local).expanduser()).resolve())
