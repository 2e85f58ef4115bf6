"""What fewer calls cost: one suite answered under several ways of recruiting, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from symmoe.build import Assembly, build_recruiter
from symmoe.evaluation.scoring import as_query, earned
from symmoe.evaluation.statistics import interval95
from symmoe.pipeline import Watch, answer
from symmoe.policy import Policy
from symmoe.protocols import Recruiter
from symmoe.types import Outcome, Question, Trace

RESAMPLES = 10_000


def contest(
    assembly: Assembly,
    questions: Sequence[Question],
    k: int,
    seed: int,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> dict[str, Any]:
    """Accuracy, calls and tokens of each way of recruiting, and what `symmoe` saves against always asking k experts.

    Calls are slots filled: a repeated draw of the published rules counts as a call, though symmoe generates it once.
    """
    queries = [as_query(question, assembly.pool.sampling) for question in questions]
    parts = assembly.parts()
    rows: dict[str, dict[str, Any]] = {}
    right: dict[str, list[float]] = {}
    for name, recruiter in ways(assembly).items():
        policy = Policy(k, aggregate="auto" if name == "symmoe" else "always")  # the others ask everybody they draw
        outcome = answer(replace(parts, recruiter=partial(_always, recruiter)), queries, policy, seed, watch=watch)
        right[name] = earned(questions, outcome.results)
        rows[name] = {"accuracy": round(float(np.mean(right[name])), 4)} | _spent(outcome)
    for name, row in rows.items():
        row["over_fixed_k"] = _paired(right[name], right["fixed_k"], seed)
        row["calls_saved"] = round(1 - row["calls"] / rows["fixed_k"]["calls"], 4)
    return {"pool": assembly.pool.name, "questions": len(questions), "k": k, "seed": seed, "ways": rows}


def _always(recruiter: Recruiter, policy: Policy) -> Recruiter:
    return recruiter


def ways(assembly: Assembly) -> Mapping[str, Recruiter]:
    """The recruiters compared: ours, ours with every slot filled, and both published rules."""
    pool, profiles = assembly.pool, assembly.profiles()

    def with_routing(**changes: object) -> Recruiter:
        routing = pool.routing.model_copy(update=changes)
        return build_recruiter(pool.model_copy(update={"routing": routing}), profiles)

    return {
        "symmoe": with_routing(recruiter="symmoe"),
        "fixed_k": with_routing(recruiter="symmoe", top_p=1.0, budget=None, balance=0.0),
        "published": with_routing(recruiter="published"),
        "published_code": with_routing(recruiter="published-code"),
    }


def _spent(outcome: Outcome) -> dict[str, Any]:
    traces = [result for result in outcome.results if isinstance(result, Trace)]
    candidates = [candidate for trace in traces for candidate in trace.candidates]
    own = [candidate for candidate in candidates if not candidate.shared]
    return {
        "calls": len(candidates),
        "generations": len(own),
        "completion_tokens": sum(candidate.completion_tokens for candidate in own),
        "loads": len(outcome.loads),
    }


def _paired(first: Sequence[float], second: Sequence[float], seed: int) -> dict[str, Any]:
    """The difference of accuracies in points, with a 95 % interval by paired bootstrap over questions."""
    differences = 100 * (np.array(first) - np.array(second))
    rng = np.random.default_rng(seed)
    means = differences[rng.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
    return {"points": round(float(differences.mean()), 2), "ci95": interval95(means)}
