"""The report of `symmoe demo`: symmoe against single experts, random ones and an oracle, by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symmoe.profiles.marking import Matrix, earned
from symmoe.questions.families import FAMILIES
from symmoe.types import Load, Outcome, Question, Trace

CONTENDERS = ("symmoe", "best_single", "random_expert", "oracle")
_NAMES = {"symmoe": "symmoe", "best_single": "best single expert", "random_expert": "random expert", "oracle": "oracle"}
_COLOURS = {"symmoe": "#2563eb", "best_single": "#9ca3af", "random_expert": "#d1d5db", "oracle": "#fbbf24"}


def demo_report(
    questions: Sequence[Question], outcome: Outcome, matrix: Matrix, engine_start: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """The report as JSON.

    Shares of right answers, 0..1, over all questions, by kind and by family: of `symmoe`; of `best_single`, the expert
    that is best on these very questions; of `random_expert`, the mean over the pool; of `oracle`, where one expert is
    enough. `loads`, `requests` and `tokens` are those of symmoe's run; `reference` has the cost of the baselines, whose
    seconds leave out answers that symmoe had already generated.
    """
    right = {"symmoe": earned(questions, outcome.results)} | _baselines(matrix)
    families = sorted({question.family for question in questions})
    rows = {f: [i for i, question in enumerate(questions) if question.family == f] for f in families}
    traces = [result for result in outcome.results if isinstance(result, Trace)]
    return {
        "questions": len(questions),
        "accuracy": {name: _mean(right[name]) for name in CONTENDERS},
        "best_single": matrix.best_single,
        "kinds": _by_kind(questions, right),
        "families": {f: {name: _mean([right[name][i] for i in rows[f]]) for name in CONTENDERS} for f in families},
        "experts": _experts(outcome.loads, traces, matrix),
        "seconds": {"engine_start": round(engine_start, 3)} | {s: round(t, 3) for s, t in outcome.seconds.items()},
        "tokens": {
            "prompt": sum(trace.answer.prompt_tokens for trace in traces),
            "completion": sum(trace.answer.completion_tokens for trace in traces),
        },
        "reference": {"seconds": round(matrix.seconds, 3), "completion_tokens": matrix.tokens},
        "settings": settings,
    }


def _by_kind(questions: Sequence[Question], right: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """The same shares for generated families and for everyday questions; empty unless there are both."""
    generated = [question.family in FAMILIES for question in questions]
    kinds = {"all families": generated, "all everyday": [not each for each in generated]}
    return {
        kind: {
            name: _mean([value for value, own in zip(right[name], among, strict=True) if own]) for name in CONTENDERS
        }
        for kind, among in kinds.items()
        if any(among) and not all(among)
    }


def _baselines(matrix: Matrix) -> dict[str, list[float]]:
    columns = list(zip(*matrix.right.values(), strict=True))
    return {
        "best_single": [float(right) for right in matrix.right[matrix.best_single]],
        "random_expert": [sum(column) / len(column) for column in columns],
        "oracle": [float(right) for right in matrix.any_right],
    }


def _experts(loads: Sequence[Load], traces: Sequence[Trace], matrix: Matrix) -> dict[str, dict[str, Any]]:
    requests: dict[str, int] = dict.fromkeys(matrix.right, 0)
    for trace in traces:
        for candidate in trace.candidates:
            requests[candidate.expert] += not candidate.shared
    return {
        expert: {
            "loads": sum(load.expert == expert for load in loads),
            "requests": count,
            "lane": next((load.lane for load in loads if load.expert == expert), None),
            "swap_seconds": round(sum(load.seconds for load in loads if load.expert == expert), 3),
            "bytes": sum(load.bytes for load in loads if load.expert == expert),
            "accuracy_alone": round(matrix.accuracy(expert), 4),
        }
        for expert, count in requests.items()
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def plot_report(report: dict[str, Any], path: Path) -> None:
    """Plot a demo report as grouped bars, the whole suite first, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = {"all": report["accuracy"], **report["kinds"], **report["families"]}
    figure = Figure(figsize=(max(11, len(groups)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.2
    for number, (name, label) in enumerate(_NAMES.items()):
        places = [place + (number - 1.5) * width for place in range(len(groups))]
        axes.bar(places, [100 * row[name] for row in groups.values()], width, label=label, color=_COLOURS[name])
    axes.set_xticks(range(len(groups)), [name.replace("all ", "all\n") for name in groups])
    axes.axvline(len(report["kinds"]) + 0.5, color="#e5e7eb", linewidth=1)
    axes.set_ylabel("right answers, %")
    axes.set_ylim(0, 105)
    loads = max(each["loads"] for each in report["experts"].values())
    often = "once" if loads <= 1 else f"{loads} times"
    axes.set_title(f"{report['questions']} questions, {len(report['experts'])} experts, each loaded at most {often}")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
