"""How many questions need no aggregator, and what leaving it out costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from symmoe.aggregation.calibration import Settled as Record
from symmoe.aggregation.calibration import fit_consensus
from symmoe.aggregation.cases import Case
from symmoe.aggregation.consensus import ConsensusRule, Thresholds, measure
from symmoe.aggregation.prompting import Window
from symmoe.aggregation.synthesis import Synthesis
from symmoe.aggregation.vote import WeightedVote
from symmoe.build import Assembly
from symmoe.evaluation.gating.contest import Verdicts
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.quality.bootstrap import paired
from symmoe.evaluation.scoring import is_right
from symmoe.pipeline import Watch, synthesise

STEPS = 21


def always_aggregated(
    assembly: Assembly,
    asked: Field,
    verdicts: Verdicts,
    aggregator: str,
    seed: int,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> tuple[list[Record], int]:
    """What the vote earns on every question of a field, and what `aggregator` earns on every one.

    Also how many syntheses could not be used: there the vote stands.
    """
    vote = WeightedVote()
    rows = zip(asked.queries, asked.candidates, verdicts, strict=True)
    cases = [Case(q, tuple(c), tuple(v), vote.aggregate(q, c, v)) for q, c, v in rows]
    window = Window(assembly.pool.engine.max_model_len)
    synthesis = Synthesis(lambda query: aggregator, "always", window=window)
    settled = synthesise(assembly.parts(), synthesis, cases, seed, watch)
    records = [
        Record(
            measure(case.candidates, case.verdicts, case.voted.votes),
            float(is_right(case.voted.text, question)),
            float(is_right(end.answer.text, question)),
        )
        for question, case, end in zip(asked.questions, cases, settled, strict=True)
    ]
    return records, sum(end.answer.origin != "synthesis" for end in settled)


def skipping(validation: Sequence[Record], held_out: Sequence[Record], tolerance: float, seed: int) -> dict[str, Any]:
    """A rule fitted on validation questions, what it does on held-out ones, and a sweep of each threshold there.

    Losses are in points against always aggregating, negative where skipping gains; their intervals are paired
    bootstraps over questions.
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
    """The part of questions that a rule skips, the accuracy with it and without, and what it loses, in points."""
    rule = ConsensusRule(thresholds)
    skipped = np.array([rule.reached(record.consensus) for record in records])
    vote = np.array([record.vote for record in records])
    synthesis = np.array([record.synthesis for record in records])
    ruled = np.where(skipped, vote, synthesis)
    lost = paired(synthesis.tolist(), ruled.tolist(), seed)
    return {
        "skipped": round(float(skipped.mean()), 4),
        "always_aggregated": round(float(synthesis.mean()), 4),
        "never_aggregated": round(float(vote.mean()), 4),
        "accuracy": round(float(ruled.mean()), 4),
        "loss": lost["points"],
        "ci95": lost["ci95"],
    }


def _sweep(records: Sequence[Record], figure: str, seed: int) -> list[dict[str, Any]]:
    """What each value of one threshold does alone."""
    free = Thresholds(share=0.0, margin=-1.0, agreement=0.0, opinions=1)
    values = np.linspace(0, 1, STEPS).tolist()
    return [
        {"threshold": round(value, 4)} | outcome(records, replace(free, **{figure: value}), seed) for value in values
    ]
