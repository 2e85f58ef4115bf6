"""The demo's picture: fraction right, family by family."""

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
