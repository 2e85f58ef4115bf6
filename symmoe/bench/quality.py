"""`symmoe bench quality`: compares ways of answering on the same questions, and checks claims against the results.

`render` makes an HTML page of the report, with its pictures inside.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from symmoe.bench.ways import RIVALS, Answered, Contest, Spent, best_in_hindsight, by_record, rivals, symmoe
from symmoe.build import Assembly
from symmoe.config import SamplingConfig
from symmoe.errors import SuiteError
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.profiles.marking import RESAMPLES, estimate, is_right, paired
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import draw, everyday_suite, mixed_suite, read_suite
from symmoe.types import Question

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
    """A PNG with a bar for each way and its 95 % interval, best on top."""
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
    """A PNG of accuracy against tokens for each question, prompt and completion; up and left is better."""
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
    """A PNG of the percent right of each way on each family; darker is better."""
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
    """The report as an HTML page, pictures included."""
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


Suites = dict[str, list[Question]]
EVERYDAY = 68
"""The number of everyday questions kept apart for tests."""
NEEDED = 8.15
"""The lead over the best multi-agent rival that is claimed, in points: Symbolic-MoE reports it over Self-MoA."""
Right = Mapping[str, Sequence[float]]


def read_suites(paths: Sequence[Path]) -> Suites:
    """Read suites, by file name. Raises `SuiteError` for faults, two files of a name, and an id in two suites."""
    suites: Suites = {}
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in suites:
            raise SuiteError(f"{path}: another suite is named {path.stem!r}", hint="rename one of the files")
        suites[path.stem] = read_suite(path)
        for question in suites[path.stem]:
            if question.id in seen:
                raise SuiteError(f"{path}: id {question.id!r} is also in {seen[question.id]}")
            seen[question.id] = path
    return suites


def kept_apart(per_family: int, seed: int, everyday: int = 0) -> Suites:
    """Suites of the test split, without common questions; empty ones are left out.

    `even` has `per_family` questions of each family; `uneven` about as many in all, in random shares, from the next
    seed; `everyday` has that many everyday questions. A smaller number gives a part of the same questions.
    """
    even = mixed_suite(per_family, "test", seed)
    known = {question.question for question in even}
    rng = Random(seed)
    weights = [rng.expovariate(1.0) for _ in FAMILIES]
    counts = Counter(rng.choices(list(FAMILIES), weights, k=len(even)))
    uneven = [
        question
        for family, count in sorted(counts.items())
        for question in islice((q for q in draw(family, "test", seed + 1) if q.question not in known), count)
    ]
    rng.shuffle(uneven)
    suites = {"even": even, "uneven": uneven, "everyday": everyday_suite("test", everyday, seed)}
    return {name: questions for name, questions in suites.items() if questions}


def claims(right: Mapping[str, Sequence[float]], spent: Mapping[str, Spent], seed: int) -> dict[str, Any]:
    """Each claim with its figures and whether it holds.

    The best rival is chosen on the same questions, which favours it. A claim holds only if the interval of the lead is
    above zero; "no more tokens" holds for both completion tokens and all tokens.
    """
    best = max(RIVALS, key=lambda name: sum(right[name]))

    def against(name: str, points: float, no_more_tokens: bool) -> dict[str, Any]:
        row = paired(right["symmoe"], right[name], seed)
        ours, theirs = spent["symmoe"], spent[name]
        cheap = ours.completion_tokens <= theirs.completion_tokens and ours.tokens <= theirs.tokens
        holds = row["ci95"][0] > 0 and row["points"] >= points and (cheap or not no_more_tokens)
        tokens = {"completion": [ours.completion_tokens, theirs.completion_tokens], "all": [ours.tokens, theirs.tokens]}
        return {"against": name, "needed": points, **row, "tokens": tokens, "no_more_tokens": cheap, "holds": holds}

    return {
        "best_multi_agent_rival": against(best, NEEDED, True),
        "self_consistency_at_equal_tokens": against("self_consistency", 0.0, False),
        "symbolic_moe_as_published": against("symbolic_moe", 0.0, True),
    }


def compare(
    assembly: Assembly,
    suites: Mapping[str, Sequence[Question]],
    k: int,
    seed: int,
    temperature: float,
    proposers: int | None,
    samples: int,
    watch: Watch = UNWATCHED,
    tell: Callable[[str], None] = lambda way: None,
    aggregator: str | None = None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Accuracy in percent, tokens, calls and seconds of every way, and symmoe's lead over each in points.

    `proposers` is the number of experts in Mixture-of-Agents (None: all), `samples` the draws of Self-MoA. `aggregator`
    names the expert that aggregates for the rivals, by default the best on record. symmoe runs first: its completion
    tokens are the budget of self-consistency. `tell` is called with the name of each way. Answers are kept in the file
    `kept`, if given, and a later run generates only those that are missing.
    """
    sampling = assembly.pool.sampling.model_copy(update={"temperature": temperature})
    contest = Contest(assembly, list(chain(*suites.values())), sampling, k, seed, watch, aggregator, kept)
    tell("every expert")
    contest.prepare(samples)
    tell("symmoe")
    answered = {"symmoe": symmoe(contest)}
    for name, way in rivals(answered["symmoe"].spent.completion_tokens, proposers, samples).items():
        tell(name)
        answered[name] = way(contest)
    right = {name: graded(contest.questions, given) for name, given in answered.items()}
    return {
        "pool": assembly.pool.name,
        "questions": len(contest.questions),
        "suites": {name: len(questions) for name, questions in suites.items()},
        "families": dict(sorted(Counter(question.family for question in contest.questions).items())),
        "settings": _settings(contest, sampling, proposers, samples),
        "ways": {name: _row(name, given, right, suites, seed) for name, given in answered.items()},
        "bars": claims(right, {name: given.spent for name, given in answered.items()}, seed),
    }


def graded(questions: Sequence[Question], given: Answered) -> list[float]:
    """1 for a right and 0 for a wrong answer, by question."""
    return [float(is_right(text, question)) for text, question in zip(given.texts, questions, strict=True)]


def _settings(contest: Contest, sampling: SamplingConfig, proposers: int | None, samples: int) -> dict[str, Any]:
    profiles = contest.assembly.profiles()
    return {
        "sampling": sampling.model_dump(),
        "k": contest.k,
        "seed": contest.seed,
        "resamples": RESAMPLES,
        "best_single": by_record(profiles)[0],
        "best_single_hindsight": best_in_hindsight(contest),
        "aggregator": contest.aggregator,
        "moa_proposers": min(proposers or len(profiles.experts), len(profiles.experts)),
        "self_moa_samples": samples,
    }


def _row(
    name: str, given: Answered, right: Right, suites: Mapping[str, Sequence[Question]], seed: int
) -> dict[str, Any]:
    questions = list(chain(*suites.values()))
    places = [suite for suite, own in suites.items() for _ in own]
    found, spent = estimate(right[name], seed), given.spent
    return {
        "accuracy": found["points"],
        "ci95": found["ci95"],
        "symmoe_leads_by": None if name == "symmoe" else paired(right["symmoe"], right[name], seed),
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "seconds": round(spent.seconds, 2),
        "families": _by([question.family for question in questions], right[name]),
        "suites": _by(places, right[name]),
        "right": "".join(str(int(earned)) for earned in right[name]),
    }


def _by(groups: Sequence[str], right: Sequence[float]) -> dict[str, float]:
    """Percent right in each group."""
    rows = {group: [r for g, r in zip(groups, right, strict=True) if g == group] for group in sorted(set(groups))}
    return {group: round(100 * sum(own) / len(own), 2) for group, own in rows.items()}
