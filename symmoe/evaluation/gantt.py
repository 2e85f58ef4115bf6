"""A plan as a picture."""

from __future__ import annotations

from pathlib import Path

from symmoe.planning.simulation import Timeline

_LOAD = "#d1d5db"
_NAMED = 20
"""As many experts at most are named beside the picture."""


def plot_timeline(timeline: Timeline, workers: int, path: Path, bound: float | None = None) -> None:
    """Draw a Gantt chart: a row for each worker, loads grey, each expert in a colour of its own, the bound dashed.

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
    if bound:
        axes.axvline(bound, color="#111827", linestyle="--", linewidth=1)
    axes.set_yticks(range(workers), [f"worker {worker}" for worker in range(workers)])
    axes.invert_yaxis()
    axes.set_xlabel("seconds" + (f" (dashed: no schedule ends before {bound:.0f})" if bound else ""))
    axes.set_title(f"{len(experts)} experts on {workers} workers, done after {timeline.makespan:.0f} s")
    if len(experts) <= _NAMED:
        patches = [Patch(color=colours[expert], label=expert) for expert in experts]
        loads = Patch(facecolor=_LOAD, hatch="////", edgecolor="#9ca3af", label="load")
        axes.legend(handles=[loads, *patches], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
