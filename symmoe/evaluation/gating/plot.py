"""The picture of a sweep: how many questions are skipped, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LABELS = {"share": "plurality share of the experts", "margin": "lead of the winner by the gate's weights"}


def plot_sweep(skipping: dict[str, Any], path: Path) -> None:
    """Draw skip rate and accuracy over each threshold, with the rule that was fitted, into a PNG file."""
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
