"""Pictures of a comparison, as PNG bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from symmoe.evaluation.quality.names import NAMES

_OURS, _BOUND, _OTHERS = "#2563eb", "#fbbf24", "#9ca3af"


def accuracies(report: dict[str, Any]) -> bytes:
    """A bar for each way with its 95 % interval, best on top."""
    ranked = sorted(report["ways"].items(), key=lambda item: item[1]["accuracy"])
    figure, axes = _figure(8.5, 0.45 * len(ranked) + 1.0)
    for place, (name, row) in enumerate(ranked):
        axes.barh(place, row["accuracy"], color=_colour(name), height=0.7)
        axes.plot(row["ci95"], [place, place], color="#111827", linewidth=1.2)
        axes.text(row["ci95"][1] + 1, place, f"{row['accuracy']:.1f}", va="center")
    axes.set_yticks(range(len(ranked)), [NAMES[name] for name, _ in ranked])
    axes.set_xlim(0, 112)
    axes.set_xlabel("right answers, %, with 95 % interval")
    return _png(figure)


def costs(report: dict[str, Any]) -> bytes:
    """Accuracy against the tokens of a question, prompt and completion together; up and left is better."""
    figure, axes = _figure(8.5, 4.6)
    for number, (name, row) in enumerate(report["ways"].items()):
        tokens = max((row["prompt_tokens"] + row["completion_tokens"]) / report["questions"], 1)
        axes.scatter(tokens, row["accuracy"], color=_colour(name), s=60, zorder=3)
        above = 6 if number % 2 else -12
        axes.annotate(NAMES[name].split(",")[0].split(":")[0], (tokens, row["accuracy"]), (6, above),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_ylim(0, 105)
    axes.set_xlabel("prompt and completion tokens for each question")
    axes.set_ylabel("right answers, %")
    axes.grid(color="#e5e7eb")
    return _png(figure)


def families(report: dict[str, Any]) -> bytes:
    """Percent right of each way on each family, the darker the better."""
    ways, groups = list(report["ways"]), list(report["families"])
    table = [[report["ways"][way]["families"][group] for group in groups] for way in ways]
    figure, axes = _figure(max(6.0, 0.75 * len(groups) + 3.5), 0.42 * len(ways) + 1.2)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "#111827")
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_yticks(range(len(ways)), [NAMES[way] for way in ways])
    return _png(figure)


def _colour(name: str) -> str:
    return {"symmoe": _OURS, "oracle": _BOUND}.get(name, _OTHERS)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()
