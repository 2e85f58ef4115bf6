"""A comparison as one HTML file that needs nothing beside it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from symmoe.evaluation.quality import plot
from symmoe.evaluation.quality.names import BARS, NAMES

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
Seconds are of loading and generating, for symmoe of the whole pipeline; every expert had been made ready once
before.</small></p>
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


_PICTURES = {"accuracies": plot.accuracies, "costs": plot.costs, "families": plot.families}


def _inside(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")
