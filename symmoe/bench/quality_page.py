"""A comparison of ways as one HTML file, its pictures inside."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

NAMES = {
    "symmoe": "symmoe",
    "best_single": "best single expert, by its record",
    "best_single_hindsight": "best single expert, in hindsight",
    "self_consistency": "self-consistency at symmoe's tokens",
    "random_vote": "random experts, vote",
    "all_vote": "all experts, vote",
    "moa": "Mixture-of-Agents",
    "self_moa": "Self-MoA",
    "symbolic_moe": "Symbolic-MoE as published",
    "symbolic_vote": "its recruiting, vote in place of its aggregator",
    "oracle": "oracle: any expert right",
}
BARS = {
    "best_multi_agent_rival": "above the best of Mixture-of-Agents, Self-MoA and the vote of all, for no more tokens",
    "self_consistency_at_equal_tokens": "above self-consistency at equal tokens",
    "symbolic_moe_as_published": "above Symbolic-MoE as published, for no more tokens",
}


_OURS, _BOUND, _OTHERS = "#2563eb", "#fbbf24", "#9ca3af"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Quality: {{ report.pool }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #111827; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e5e7eb; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
tr.ours { font-weight: 600; background: #eff6ff; }
img { max-width: 100%; }
small { color: #6b7280; }
</style>
</head>
<body>
<h1>Pool “{{ report.pool }}”, {{ report.questions }} questions</h1>
<p>All ways answered the same questions in one run: temperature {{ settings.sampling.temperature }}, at most
{{ settings.sampling.max_tokens }} tokens an answer, k = {{ settings.k }}, seed {{ settings.seed }}.
Best expert by record: {{ settings.best_single }}; in hindsight: {{ settings.best_single_hindsight }};
fixed aggregator: {{ settings.aggregator }}; proposers: {{ settings.moa_proposers }};
Self-MoA draws: {{ settings.self_moa_samples }}.
Suites:
{% for name, count in report.suites.items() %}{{ name }} ({{ count }}){{ ", " if not loop.last }}{% endfor %}.</p>
<h2>Accuracy and cost</h2>
<table>
<tr><th>way</th><th>right, %</th><th>95 %</th><th>symmoe leads by, points (95 %)</th><th>calls</th>
<th>prompt tokens</th><th>completion tokens</th><th>seconds</th></tr>
{% for name, row in report.ways.items() %}<tr{% if name == "symmoe" %} class="ours"{% endif %}>
<td>{{ names[name] }}</td><td>{{ "%.1f"|format(row.accuracy) }}</td><td>{{ interval(row.ci95) }}</td>
<td>{% if row.symmoe_leads_by %}{{ "%+.2f"|format(row.symmoe_leads_by.points) }}
({{ signed(row.symmoe_leads_by.ci95) }}){% endif %}</td>
<td>{{ row.calls }}</td><td>{{ row.prompt_tokens }}</td><td>{{ row.completion_tokens }}</td>
<td>{{ "%.1f"|format(row.seconds) }}</td></tr>
{% endfor %}</table>
<p><small>Intervals by bootstrap over questions, {{ settings.resamples }} resamples; differences are paired.
Seconds are of generating, and for symmoe and the published recruiting of routing, too; loads are left out.</small></p>
<p><img alt="Accuracy of each way" src="{{ pictures.accuracies }}"/></p>
<p><img alt="Accuracy against tokens" src="{{ pictures.costs }}"/></p>
<h2>Claims</h2>
<table>
<tr><th>symmoe is</th><th>against</th><th>points (95 %)</th><th>needed</th><th>all tokens, ours and theirs</th>
<th>holds</th></tr>
{% for name, bar in report.bars.items() %}<tr><td>{{ bars[name] }}</td><td>{{ names[bar.against] }}</td>
<td>{{ "%+.2f"|format(bar.points) }} ({{ signed(bar.ci95) }})</td><td>{{ "%.2f"|format(bar.needed) }}</td>
<td>{{ bar.tokens.all[0] }}, {{ bar.tokens.all[1] }}</td><td>{{ "yes" if bar.holds else "no" }}</td></tr>
{% endfor %}</table>
<h2>Families</h2>
<p><img alt="Percent right on each family" src="{{ pictures.families }}"/></p>
</body>
</html>
"""


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


def render(report: dict[str, Any]) -> str:
    """The page, its pictures inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    pictures = {name: _inside(draw(report)) for name, draw in _PICTURES.items()}
    return environment.from_string(_PAGE).render(
        report=report,
        settings=report["settings"],
        pictures=pictures,
        names=NAMES,
        bars=BARS,
        interval=lambda ci: f"{ci[0]:.1f}–{ci[1]:.1f}",
        signed=lambda ci: f"{ci[0]:+.2f} to {ci[1]:+.2f}",
    )


_PICTURES = {"accuracies": accuracies, "costs": costs, "families": families}


def _inside(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")
