"""What a batch would do on a fleet, computed without loading a model, as figures and as a chart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from symmoe.planning.alignment import JointLoad
from symmoe.planning.grouping import Fleet, plan, problem_of, spread
from symmoe.planning.scheduling import Schedule, schedule
from symmoe.planning.simulation import AsPredicted, Timeline, simulate
from symmoe.protocols import Recruiter, Tagger
from symmoe.routing.tagging import tag
from symmoe.types import Plan, Query

_LOAD = "#d1d5db"
_NAMED = 20
"""As many experts at most are named beside the picture."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan divided among workers, its schedule, its simulation with the predicted costs, and the seconds to plan.

    `met` is the share of pairs of experts asked the same question that run on one worker; None without any pair.
    """

    plan: Plan
    schedule: Schedule
    timeline: Timeline
    planning: float
    met: float | None


def preview(
    queries: Sequence[Query],
    parts: tuple[Tagger, Recruiter],
    models: Mapping[str, str],
    fleet: Fleet,
    k: int,
    seed: int,
    prefetch: bool = False,
) -> Preview:
    """Tag, recruit and plan as the pipeline does, then simulate the plan."""
    tagger, recruiter = parts
    recruitments = recruiter.recruit(queries, tag(tagger, queries), k, seed)
    began = time.perf_counter()
    whole = plan(queries, recruitments, models, seed=seed)
    problem = problem_of(whole, recruitments, models, fleet)
    found = schedule(problem, fleet.program_seconds)
    divided = spread(whole, found)
    planning = time.perf_counter() - began
    timeline = simulate(found, problem, AsPredicted(problem), prefetch)
    return Preview(divided, found, timeline, planning, _met(divided))


def preview_report(shown: Preview) -> dict[str, Any]:
    """A preview as plain JSON types, seconds to the millisecond."""
    planned = shown.schedule
    return {
        "makespan": round(shown.timeline.makespan, 3),
        "bound": round(planned.bound, 3),
        "over_bound": round(planned.makespan / planned.bound, 4) if planned.bound else None,
        "method": planned.method,
        "optimal": planned.optimal,
        "planning_seconds": round(shown.planning, 3),
        "together": None if shown.met is None else round(shown.met, 4),
        "joint": [
            {
                "model": load.model,
                "workers": sorted(load.places),
                "begin": round(load.begin, 3),
                "waited": round(load.waited, 3),
                "saved": round(load.saved * len(load.places), 3) if load.rates else None,
            }
            for load in planned.joint
        ],
        "workers": [
            {"worker": worker, "seconds": round(seconds, 3), "experts": [share.expert for share in shares]}
            for worker, (seconds, shares) in enumerate(zip(planned.seconds, planned.shares, strict=True))
        ],
        "spans": [
            {
                "worker": span.worker,
                "expert": span.expert,
                "kind": span.kind,
                "begin": round(span.begin, 3),
                "end": round(span.end, 3),
                "requests": span.requests,
            }
            for span in shown.timeline.spans
        ],
    }


def _met(divided: Plan) -> float | None:
    """Of the pairs of experts that a question asks, the part whose calls run on one worker."""
    by_query: dict[str, dict[str, int]] = {}
    for step in divided.steps:
        for assignment in (assignment for call in step.calls for assignment in call.serves):
            by_query.setdefault(assignment.query_id, {})[step.expert] = step.worker
    pairs = [pair for workers in by_query.values() for pair in combinations(workers.values(), 2)]
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


def plot_timeline(
    timeline: Timeline, workers: int, path: Path, bound: float | None = None, joint: Sequence[JointLoad] = ()
) -> None:
    """Draw a Gantt chart: a row for each worker, loads grey, each expert in a colour of its own, the bound dashed.

    Loads that begin together are joined by a line.

    The file's suffix decides the format: `.png`, `.svg`, `.pdf`.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    experts = list(dict.fromkeys(span.expert for span in timeline.spans))
    palette = colormaps["tab20" if len(experts) <= _NAMED else "turbo"].resampled(max(len(experts), 2))
    colours = {expert: palette(place) for place, expert in enumerate(experts)}
    figure = Figure(figsize=(11, 1.6 + 0.28 * max(workers, 6)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for span in timeline.spans:
        loading = span.kind == "load"
        style = (
            {"color": _LOAD, "hatch": "////", "edgecolor": "#9ca3af"} if loading else {"color": colours[span.expert]}
        )
        axes.barh(span.worker, span.end - span.begin, left=span.begin, height=0.8, linewidth=0, **style)
    for load in joint:
        axes.plot([load.begin] * len(load.places), sorted(load.places), color="#111827", marker="o", markersize=4)
    if bound:
        axes.axvline(bound, color="#111827", linestyle="--", linewidth=1)
    axes.set_yticks(range(workers), [f"worker {worker}" for worker in range(workers)])
    axes.invert_yaxis()
    joint_note = "; joined: machines read a model once between them" if joint else ""
    axes.set_xlabel("seconds" + (f" (dashed: no schedule ends before {bound:.0f}{joint_note})" if bound else ""))
    axes.set_title(f"{len(experts)} experts on {workers} workers, done after {timeline.makespan:.0f} s")
    if len(experts) <= _NAMED:
        patches = [Patch(color=colours[expert], label=expert) for expert in experts]
        loads = Patch(facecolor=_LOAD, hatch="////", edgecolor="#9ca3af", label="load")
        axes.legend(handles=[loads, *patches], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
