"""The comparison: every way on the same questions in one run, and what was found as one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from symmoe.build import Assembly
from symmoe.config import SamplingConfig
from symmoe.evaluation.quality.bars import judged
from symmoe.evaluation.quality.bootstrap import RESAMPLES, estimate, paired
from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.records import by_record
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.ways import rivals
from symmoe.evaluation.quality.ways.best_single import best_in_hindsight
from symmoe.evaluation.quality.ways.symmoe import Symmoe
from symmoe.evaluation.scoring import is_right
from symmoe.pipeline import Watch
from symmoe.types import Question

Right = Mapping[str, Sequence[float]]


def compare(
    assembly: Assembly,
    suites: Mapping[str, Sequence[Question]],
    k: int,
    seed: int,
    temperature: float,
    proposers: int | None,
    samples: int,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] = lambda way: None,
    aggregator: str | None = None,
) -> dict[str, Any]:
    """Accuracy in percent, tokens, calls and seconds of every way, and symmoe's lead over each in points.

    `aggregator` names the expert that aggregates for the rivals, instead of the best on record at it.
    symmoe goes first: what it spends is the budget of self-consistency. `tell` is called with each way's name.
    """
    sampling = assembly.pool.sampling.model_copy(update={"temperature": temperature})
    contest = Contest(assembly, list(chain(*suites.values())), sampling, k, seed, watch, aggregator)
    warmed = contest.warm_up()
    tell("symmoe")
    answered = {"symmoe": Symmoe().answer(contest)}
    for name, way in rivals(answered["symmoe"].spent.completion_tokens, proposers, samples).items():
        tell(name)
        answered[name] = way.answer(contest)
    right = {name: graded(contest.questions, given) for name, given in answered.items()}
    return {
        "pool": assembly.pool.name,
        "questions": len(contest.questions),
        "suites": {name: len(questions) for name, questions in suites.items()},
        "families": {f: sum(q.family == f for q in contest.questions) for f in _families(contest.questions)},
        "settings": _settings(contest, sampling, proposers, samples),
        "warm_up_seconds": round(warmed, 2),
        "ways": {name: _row(name, given, right, suites, seed) for name, given in answered.items()},
        "bars": judged(right, {name: given.spent for name, given in answered.items()}, seed),
    }


def graded(questions: Sequence[Question], given: Answered) -> list[float]:
    """1 for a right answer, 0 for a wrong one, question by question."""
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


def _families(questions: Sequence[Question]) -> list[str]:
    return sorted({question.family for question in questions})
