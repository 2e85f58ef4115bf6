"""`symmoe bench gate`: what the gate is worth, and how often it spares the aggregator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from symmoe.aggregation.calibration import TOLERANCE
from symmoe.aggregation.choosing import best_aggregator
from symmoe.build import Assembly
from symmoe.evaluation.gating.contest import Remembering, Verdicts, contest, judged
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.gating.outputs import Drawing, gather
from symmoe.evaluation.gating.settings import cut
from symmoe.evaluation.gating.skipping import always_aggregated, skipping
from symmoe.gating.rewards import RewardGate
from symmoe.pipeline import Watch
from symmoe.protocols import Gate
from symmoe.types import Question

AGGREGATED = "three_experts"
"""The setting whose candidates an aggregator is asked about."""


def measure(
    assembly: Assembly,
    validation: Sequence[Question],
    held_out: Sequence[Question],
    drawing: Drawing,
    kept: Path,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
    told: Callable[[str], None] = lambda now: None,
) -> dict[str, Any]:
    """The report as JSON. Thresholds are fitted on `validation` alone; all figures are of `held_out`.

    What experts write is kept in the directory `kept`.
    """
    told("asking")
    fields = {
        name: gather(assembly, questions, drawing, kept / f"{name}.jsonl", watch)
        for name, questions in (("validation", validation), ("held_out", held_out))
    }
    told("judging")
    gate, asked = _remembering(assembly.gate), fields["held_out"]
    judged(gate, asked)  # all that is to be read, as one batch
    choosing = {name: contest(each, _gates(gate, each), drawing.seed) for name, each in cut(asked).items()}
    aggregator = aggregator_of(assembly)
    told(f"aggregating with {aggregator}")
    records, failed = {}, {}
    for name, field in fields.items():
        three = cut(field)[AGGREGATED]
        verdicts = judged(gate, three)
        records[name], failed[name] = always_aggregated(assembly, three, verdicts, aggregator, drawing.seed, watch)
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
    """Who aggregates: the expert on record for it, else the pool's fallback, else its first expert."""
    pool = assembly.pool
    return best_aggregator(assembly.profiles()) or pool.routing.fallback or pool.names[0]


def _gates(gate: Gate, asked: Field) -> dict[str, Verdicts]:
    """The pool's gate, and its reward model without the experts' records."""
    if not isinstance(gate, RewardGate):
        return {}
    alone = RewardGate(gate.model, replace(gate.mixture, evidence=0.0))
    return {"gate": judged(gate, asked), "reward_alone": judged(alone, asked)}


def _remembering(gate: Gate) -> Gate:
    return RewardGate(Remembering(gate.model), gate.mixture) if isinstance(gate, RewardGate) else gate
