"""`symmoe bench quality`: every way on the same questions in one run, and the claims that this decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from symmoe.bench.ways import RIVALS, Answered, Contest, Spent, best_in_hindsight, by_record, rivals, symmoe
from symmoe.build import Assembly
from symmoe.config import SamplingConfig
from symmoe.errors import SuiteError
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.profiles.grading import RESAMPLES, estimate, paired
from symmoe.profiles.marking import is_right
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import draw, everyday_suite, mixed_suite, read_suite
from symmoe.types import Question

Suites = dict[str, list[Question]]
EVERYDAY = 68
"""As many everyday questions are kept apart."""
NEEDED = 8.15
"""Points above the best multi-agent rival: what Symbolic-MoE reports over Self-MoA."""
Right = Mapping[str, Sequence[float]]


def read_suites(paths: Sequence[Path]) -> Suites:
    """Suites by file name; `SuiteError` names what is wrong, also an id that stands in two of them."""
    suites: Suites = {}
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in suites:
            raise SuiteError(f"{path}: another suite is named {path.stem!r}", hint="rename one of the files")
        suites[path.stem] = read_suite(path)
        for question in suites[path.stem]:
            if question.id in seen:
                raise SuiteError(f"{path}: id {question.id!r} stands in {seen[question.id]} too")
            seen[question.id] = path
    return suites


def kept_apart(per_family: int, seed: int, everyday: int = 0) -> Suites:
    """Two suites of the test split: `even`, and `uneven` of about as many, families mixed by chance, of the next seed.

    No question stands in both. So many `everyday` questions kept apart, of all kinds by chance, are a third. What fewer
    of either would be is a part of them.
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

    The best rival is chosen on these very questions, which favours it. A claim holds only if the interval lies above
    zero; "no more tokens" means completion tokens and all tokens both.
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

    `aggregator` names the expert that aggregates for the rivals, instead of the best on record at it. symmoe goes
    first: what it spends is the budget of self-consistency. `tell` is called with each way's name. With a file `kept`,
    what experts write is kept there: stopped, or asked for more questions, the next run makes only what is missing.
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
