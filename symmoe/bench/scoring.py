"""`symmoe bench scoring`: accuracy with and without the scorer, and how often the aggregator can be skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from symmoe.aggregation.consensus import TOLERANCE, ConsensusRule, Thresholds, fit_consensus
from symmoe.aggregation.consensus import Settled as Record
from symmoe.aggregation.consensus import measure as consensus_of
from symmoe.aggregation.prompting import Window
from symmoe.aggregation.synthesis import Synthesis, best_aggregator
from symmoe.aggregation.vote import Case, WeightedVote
from symmoe.build import Assembly
from symmoe.pipeline import UNWATCHED, Watch, synthesise
from symmoe.profiles.marking import is_right, paired
from symmoe.protocols import RewardModel, Scorer
from symmoe.scoring.weighing import RewardScorer
from symmoe.training.rated import Drawing, Field, cut, gather
from symmoe.training.reward import Verdicts, contest, judged
from symmoe.types import Message, Query, Question, Reward

AGGREGATED = "three_experts"
"""The setting whose candidates are aggregated."""
STEPS = 21
_LABELS = {"share": "plurality share of the experts", "margin": "lead of the winner by the scorer's weights"}


def measure(
    assembly: Assembly,
    validation: Sequence[Question],
    held_out: Sequence[Question],
    drawing: Drawing,
    kept: Path,
    watch: Watch = UNWATCHED,
    tell: Callable[[str], None] = lambda now: None,
) -> dict[str, Any]:
    """The report as JSON. Thresholds are fitted on `validation` only; all figures are of `held_out`.

    Answers of experts are kept in the directory `kept`, for later runs.
    """
    tell("asking")
    fields = {
        name: gather(assembly, questions, drawing, kept / f"{name}.jsonl", watch)
        for name, questions in (("validation", validation), ("held_out", held_out))
    }
    tell("judging")
    scorer, asked = _remembering(assembly.scorer), fields["held_out"]
    judged(scorer, asked)  # reads all texts in one batch
    choosing = {name: contest(each, _scorers(scorer, each), drawing.seed) for name, each in cut(asked).items()}
    aggregator = aggregator_of(assembly)
    tell(f"aggregating with {aggregator}")
    records, failed = {}, {}
    for name, field in fields.items():
        three = cut(field)[AGGREGATED]
        verdicts = judged(scorer, three)
        records[name], failed[name] = always_aggregated(
            assembly, three, verdicts, aggregator, drawing.seed, watch, kept / f"{name}-syntheses.jsonl"
        )
    return {
        "pool": assembly.pool.name,
        "reward": None if assembly.pool.reward is None else assembly.pool.reward.model,
        "drawing": asdict(drawing),
        "choosing": choosing,
        "aggregator": aggregator,
        "unusable_syntheses": failed,
        "skipping": skipping(records["validation"], records["held_out"], TOLERANCE, drawing.seed),
    }


def aggregator_of(assembly: Assembly) -> str:
    """The expert that aggregates: the best on record at it, else the pool's fallback, else its first expert."""
    pool = assembly.pool
    return best_aggregator(assembly.profiles()) or pool.routing.fallback or pool.names[0]


def _scorers(scorer: Scorer, asked: Field) -> dict[str, Verdicts]:
    """Verdicts of the pool's scorer, and of its reward model without the experts' records; none without a model."""
    if not isinstance(scorer, RewardScorer):
        return {}
    alone = RewardScorer(scorer.model, replace(scorer.mixture, evidence=0.0))
    return {"scorer": judged(scorer, asked), "reward_alone": judged(alone, asked)}


def _remembering(scorer: Scorer) -> Scorer:
    return RewardScorer(Remembering(scorer.model), scorer.mixture) if isinstance(scorer, RewardScorer) else scorer


def always_aggregated(
    assembly: Assembly,
    asked: Field,
    verdicts: Verdicts,
    aggregator: str,
    seed: int,
    watch: Watch = UNWATCHED,
    kept: Path | None = None,
) -> tuple[list[Record], int]:
    """The scores of the vote and of `aggregator` on every question of a field, and how many syntheses were unusable.

    For those, the vote's answer counts. Syntheses are kept in the file `kept`, if given.
    """
    vote = WeightedVote()
    rows = zip(asked.queries, asked.candidates, verdicts, strict=True)
    cases = [Case(q, tuple(c), tuple(v), vote.aggregate(q, c, v)) for q, c, v in rows]
    window = Window(assembly.pool.engine.max_model_len)
    synthesis = Synthesis(lambda query: aggregator, "always", window=window)
    settled = synthesise(
        replace(assembly.parts(), executor=assembly.remembering_executor(kept)), synthesis, cases, seed, watch
    )
    records = [
        Record(
            consensus_of(case.candidates, case.verdicts, case.voted.votes),
            float(is_right(case.voted.text, question)),
            float(is_right(end.answer.text, question)),
        )
        for question, case, end in zip(asked.questions, cases, settled, strict=True)
    ]
    return records, sum(end.answer.origin != "synthesis" for end in settled)


def skipping(validation: Sequence[Record], held_out: Sequence[Record], tolerance: float, seed: int) -> dict[str, Any]:
    """A rule fitted on validation questions, its outcome on held-out ones, and a sweep of each threshold there.

    Losses are in points against always aggregating, negative if skipping gains accuracy, with paired bootstrap
    intervals over questions. `tolerance` is the loss allowed in fitting, in points.
    """
    fit = fit_consensus(validation, tolerance, seed)
    return {
        "thresholds": asdict(fit.thresholds),
        "tolerance": tolerance,
        "validation": asdict(fit.fitted) | {"questions": len(validation)},
        "held_out": outcome(held_out, fit.thresholds, seed) | {"questions": len(held_out)},
        "sweep": {name: _sweep(held_out, name, seed) for name in ("share", "margin")},
    }


def outcome(records: Sequence[Record], thresholds: Thresholds, seed: int) -> dict[str, Any]:
    """The share of questions that a rule skips, accuracies with and without it, 0..1, and its loss in points."""
    rule = ConsensusRule(thresholds)
    skipped = np.array([rule.reached(record.consensus) for record in records])
    vote = np.array([record.vote for record in records])
    synthesis = np.array([record.synthesis for record in records])
    ruled = np.where(skipped, vote, synthesis)
    loss = paired(synthesis.tolist(), ruled.tolist(), seed)
    return {
        "skipped": round(float(skipped.mean()), 4),
        "always_aggregated": round(float(synthesis.mean()), 4),
        "never_aggregated": round(float(vote.mean()), 4),
        "accuracy": round(float(ruled.mean()), 4),
        "loss": loss["points"],
        "ci95": loss["ci95"],
    }


def _sweep(records: Sequence[Record], figure: str, seed: int) -> list[dict[str, Any]]:
    """The outcome of each value of one threshold, with all others off."""
    free = Thresholds(share=0.0, margin=-1.0, agreement=0.0, opinions=1)
    values = np.linspace(0, 1, STEPS).tolist()
    return [
        {"threshold": round(value, 4)} | outcome(records, replace(free, **{figure: value}), seed) for value in values
    ]


def plot_sweep(skipping: dict[str, Any], path: Path) -> None:
    """Plot skip rate and accuracy over each threshold, with the fitted rule, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(1, 2, sharey=True)
    for axes, (name, label) in zip(panes, _LABELS.items(), strict=True):
        rows = skipping["sweep"][name]
        values = [row["threshold"] for row in rows]
        axes.plot(values, [100 * row["skipped"] for row in rows], color="#9ca3af", label="questions skipped")
        axes.plot(values, [100 * row["accuracy"] for row in rows], color="#2563eb", label="right answers")
        low, high = ([100 * row["always_aggregated"] - row["ci95"][side] for row in rows] for side in (1, 0))
        axes.fill_between(values, low, high, color="#2563eb", alpha=0.15, linewidth=0)
        axes.axhline(100 * rows[0]["always_aggregated"], color="#111827", linewidth=1, label="always aggregating")
        axes.axvline(skipping["thresholds"][name], color="#fbbf24", linewidth=1.5, label="the fitted rule's least")
        axes.set_xlabel(f"least {label}")
        axes.set_xlim(0, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
    panes[0].set_ylabel("percent of the held-out questions")
    panes[0].set_ylim(0, 105)
    figure.legend(*panes[0].get_legend_handles_labels(), ncols=4, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=110)


class Remembering:
    """A reward model that keeps its rewards, so that every answer is read once."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model
        self._known: dict[tuple[tuple[Message, ...], str], Reward] = {}

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer to every query, in order."""
        rows = list(zip(queries, candidates, strict=True))
        new = [list(dict.fromkeys(t for t in row if (query.messages, t) not in self._known)) for query, row in rows]
        for query, texts, rewards in zip(queries, new, self._model.score(queries, new), strict=True):
            self._known |= {(query.messages, text): reward for text, reward in zip(texts, rewards, strict=True)}
        return [[self._known[query.messages, text] for text in row] for query, row in rows]
