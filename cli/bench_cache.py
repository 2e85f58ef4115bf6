"""`symmoe bench cache`: from which cosine an answer may be given again to a question in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

_SHOWN = (0.5, 0.75, 0.85, 0.95)


def cache(
    wordings: Annotated[
        Path, typer.Option("--wordings", help="YAML: a list of questions, each a list of ways to word it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/cache.json"),
    pool: options.Pool = "starter",
    per_family: Annotated[int, typer.Option("--per-family", min=2, help="Different questions of each family.")] = 100,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure how often the answer cache finds a question in other words, and how often it takes another one for it."""
    from symmoe.deployments.bench.reuse import measure_reuse

    from symmoe.build import build_embedder
    from symmoe.config import read_pool
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.splits import mixed_suite

    from .render import narrating, show, show_json, write_report

    described, worded = read_pool(pool), _read(wordings)
    questions = mixed_suite(list(FAMILIES), per_family, "test", seed)
    with narrating("measuring") as tell:
        report = measure_reuse(build_embedder(described), worded, questions, seed, tell)
    report = {"pool": described.name, "embedder": described.routing.embedder, **report}
    write_report(report, out)
    if json:
        show_json(report)
        return
    show(_table(report), f"report in {out}")


def _read(path: Path) -> list[list[str]]:
    import yaml

    from symmoe.errors import RequestError

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(f"{path} cannot be read: {str(error).splitlines()[0]}", code="bad_wordings") from error
    good = isinstance(found, list) and all(isinstance(each, list) and len(each) > 1 for each in found)
    if not good or not found or not all(isinstance(wording, str) for each in found for wording in each):
        raise RequestError(f"{path} is no list of questions, each a list of wordings", code="bad_wordings")
    return [list(each) for each in found]


def _table(report: dict[str, Any]) -> Any:
    from .render import table

    places = [place for place, cosine in enumerate(report["cosines"]) if cosine in _SHOWN]
    rows = [
        (kind, row["pairs"], label, *(f"{100 * row[way][place]:.2f}" for place in places))
        for kind, row in report["kinds"].items()
        for way, label in (("with_rules", "rules and cosine"), ("by_cosine", "cosine alone"))
    ]
    least = report["least"]
    verdict = "no cosine is enough" if least is None else f"safe from {least:g}"
    title = f"% of pairs taken for one question, {report['embedder']}; {verdict}"
    columns = ("pairs", "count", "taken for one by", *(f"{report['cosines'][place]:g}" for place in places))
    return table(title, columns, rows, right=(1, *range(3, 3 + len(places))))
