"""Pictures of reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_NAMES = {"symmoe": "symmoe", "best_single": "best single expert", "random_expert": "random expert", "oracle": "oracle"}
_COLOURS = {"symmoe": "#2563eb", "best_single": "#9ca3af", "random_expert": "#d1d5db", "oracle": "#fbbf24"}


def plot_report(report: dict[str, Any], path: Path) -> None:
    """Draw a demo report as grouped bars, the whole suite first, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = {"all": report["accuracy"], **report["families"]}
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.2
    for number, (name, label) in enumerate(_NAMES.items()):
        places = [place + (number - 1.5) * width for place in range(len(groups))]
        axes.bar(places, [100 * row[name] for row in groups.values()], width, label=label, color=_COLOURS[name])
    axes.set_xticks(range(len(groups)), list(groups))
    axes.axvline(0.5, color="#e5e7eb", linewidth=1)
    axes.set_ylabel("right answers, %")
    axes.set_ylim(0, 105)
    axes.set_title(f"{report['questions']} questions, {len(report['experts'])} experts, each loaded at most once")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def plot_replay(report: dict[str, Any], path: Path) -> None:
    """Draw a replay report as bars with 95 % intervals, the mean over sets of each router, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sorted(report["routers"].items(), key=lambda item: item[1]["mean"])
    figure = Figure(figsize=(8, 0.45 * len(ranked) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (name, row) in enumerate(ranked):
        low, high = row["ci95"]
        colour = "#2563eb" if name == "symmoe" else "#fbbf24" if name == "oracle" else "#9ca3af"
        axes.barh(place, row["mean"], color=colour, height=0.7)
        axes.plot([low, high], [place, place], color="#111827", linewidth=1.2)
        axes.text(high + 0.5, place, f"{row['mean']:.1f}", va="center")
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
    axes.set_xlabel("percent earned with one expert for each question, mean over sets, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
