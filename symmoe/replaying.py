"""What policies would have answered and cost on recorded answers: runs the pipeline itself, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.extraction import extract
from symmoe.build import Assembly, build_kept_embedder, build_tagger
from symmoe.config import EngineConfig, Pool
from symmoe.pipeline import answer
from symmoe.policy import Policy, policy_for
from symmoe.profiles.building import onboard, profile_records, tag_questions
from symmoe.profiles.marking import estimate, is_right, kind_of, paired
from symmoe.protocols import Tagger
from symmoe.records.files import Records
from symmoe.types import Profiles, Query, Refusal, Sampling, Skills, Trace

SYMMOE = "symmoe"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to answer: a recruiter, at most k experts, a budget, and the quality dial; None asks all at once.

    With `verified` answers are weighed by the profiles' verifier, if there is one, otherwise by records alone.
    """

    recruiter: str = SYMMOE
    k: int = 3
    budget: float | None = None
    quality: float | None = None
    verified: bool = True

    @property
    def name(self) -> str:
        """The setting in a few words."""
        budget = "" if self.budget is None else f", {self.budget:g} tokens"
        dial = "" if self.quality is None else f", quality {self.quality:g}"
        records = "" if self.verified else ", records alone"
        return f"{self.recruiter}, k = {self.k}{budget}{dial}{records}"

    def policy(self, pool: Pool, without: tuple[str, ...]) -> Policy:
        """The policy of this setting: with the dial as the pool applies it, otherwise k experts asked at once."""
        if self.quality is None:
            policy = replace(policy_for(pool, k=self.k, budget=self.budget, aggregate="always"), full=True)
        else:
            policy = policy_for(pool, k=self.k, budget=self.budget, quality=self.quality)
        return policy.excluding(without)


class TaggedOnce:
    """A tagger that tags each text once, so that settings share the work."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self._known: dict[str, Skills] = {}

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query."""
        fresh = list({query.text: query for query in queries if query.text not in self._known}.values())
        if fresh:
            tagged = self._tagger.tag(fresh)
            self._known |= {query.text: skills for query, skills in zip(fresh, tagged, strict=True)}
        return [replace(self._known[query.text], query_id=query.id) for query in queries]


class Replay:
    """A pool whose experts answer from records, to try settings on. `without` are experts never asked.

    Raises `RecordsError` if the records lack an expert, `PoolError` for one outside the pool.
    """

    def __init__(
        self,
        pool: Pool,
        records: Records,
        without: Sequence[str] = (),
        profiles: Profiles | None = None,
    ) -> None:
        self.without = tuple(sorted({pool.expert(name).name for name in without}))
        self.experts = [name for name in pool.names if name not in self.without]
        records.check(self.experts)
        self.records, self._embedder = records, build_kept_embedder(pool)
        self.pool = _recorded(pool, records)
        self._tagger = TaggedOnce(build_tagger(pool, self._embedder))
        self.profiles = profiles or self._assembly(self.pool, None).profiles()
        sampling = pool.sampling
        settled = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p)
        self.queries = [Query(question.id, question.messages, settled) for question in records.questions]

    def run(
        self, setting: Setting, seed: int, profiles: Profiles | None = None, without: tuple[str, ...] = ()
    ) -> list[Trace | Refusal]:
        """The outcome of every question, in order; under other profiles and without further experts, if given."""
        routing = self.pool.routing.model_copy(update={"recruiter": setting.recruiter})
        pool = self.pool.model_copy(update={"routing": routing})
        known = profiles or self.profiles
        parts = self._assembly(pool, known if setting.verified else replace(known, verifier=None)).parts()
        policy = setting.policy(pool, self.without).excluding(without)
        return list(answer(parts, self.queries, policy, seed).results)

    def _assembly(self, pool: Pool, profiles: Profiles | None) -> Assembly:
        return Assembly(pool, tagger=self._tagger, embedder=self._embedder, profiles=profiles, records=self.records)


def compare(
    replay: Replay, settings: Sequence[Setting], seed: int, tell: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """Each setting's figures side by side, with those of single experts, a vote of all, and the oracle.

    Accuracies are percent of the questions with a known answer, with a 95 % interval; differences are paired. `tell` is
    called with the present item of work.
    """
    known = [place for place, question in enumerate(replay.records.questions) if question.answer is not None]
    tell("reading the answers")
    references = _references(replay, known) if known else {}
    rows: dict[str, dict[str, Any]] = {}
    first: tuple[list[str], Floats] | None = None
    for setting in settings:
        tell(setting.name)
        results = replay.run(setting, seed)
        answers = [_said(result) for result in results]
        right = _right(replay, results, known)
        rows[setting.name] = {
            "setting": asdict(setting),
            **_graded(right, seed),
            **_spent(replay, results),
            **_promised(results, right, known),
            "agreement": _agreement(results),
            "families": _by_family(replay, known, right),
        }
        if first is not None:
            rows[setting.name] |= {
                "over_first": paired(right, first[1], seed) if known else None,
                "same_as_first": _percent(sum(a == b for a, b in zip(answers, first[0], strict=True)), len(answers)),
            }
        first = first or (answers, right)
    return {
        "pool": replay.pool.name,
        "records": replay.records.where,
        "questions": len(replay.queries),
        "known": len(known),
        "experts": list(replay.experts),
        "without": list(replay.without),
        "seed": seed,
        "settings": rows,
        "references": {name: {**_graded(right, seed), "calls": calls} for name, (right, calls) in references.items()},
        "over_best_single": {
            name: paired(_unpacked(row["right"]), references["best_single"][0], seed) for name, row in rows.items()
        }
        if known
        else {},
    }


def _said(result: Trace | Refusal) -> str:
    """The answer as the vote read it."""
    return "" if isinstance(result, Refusal) or not result.answer.votes else result.answer.votes[0].answer


def _right(replay: Replay, results: Sequence[Trace | Refusal], known: Sequence[int]) -> Floats:
    questions, found = replay.records.questions, []
    for place in known:
        result = results[place]
        found.append(isinstance(result, Trace) and is_right(result.answer.text, questions[place].known()))
    return np.array(found, dtype=np.float64)


def _graded(right: Floats, seed: int) -> dict[str, Any]:
    if not len(right):
        return {"accuracy": None, "ci95": None, "right": ""}
    found = estimate(right, seed)
    return {"accuracy": found["points"], "ci95": found["ci95"], "right": "".join("01"[int(each)] for each in right)}


def _unpacked(right: str) -> Floats:
    return np.array([each == "1" for each in right], dtype=np.float64)


def _spent(replay: Replay, results: Sequence[Trace | Refusal]) -> dict[str, Any]:
    """Calls and what they took. `unrecorded` calls are those to which no answer is on record; sums leave them out."""
    calls = [(expert, result.query_id) for result in results for expert in _asked(result)]
    recorded = [replay.records.answers[expert].get(query_id) for expert, query_id in calls]
    found = [each for each in recorded if each is not None]
    costs, seconds = [each.cost for each in found], [each.seconds for each in found]
    return {
        "calls": len(calls),
        "calls_per_question": round(len(calls) / max(len(results), 1), 3),
        "unrecorded": len(calls) - len(found),
        "unanswered": sum(isinstance(result, Refusal) for result in results),
        "prompt_tokens": sum(each.prompt_tokens or 0 for each in found),
        "completion_tokens": sum(each.tokens for each in found),
        "tokens_estimated": any(each.completion_tokens is None for each in found),
        "cost": _total(costs),
        "seconds": _total(seconds),
        "experts": dict(Counter(expert for expert, _ in calls).most_common()),
    }


def _asked(result: Trace | Refusal) -> list[str]:
    """The experts that were asked, also where none of them gave an answer."""
    return list(result.failed) if isinstance(result, Refusal) else [each.expert for each in result.candidates]


def _total(amounts: Iterable[float | None]) -> float | None:
    """The sum of what was recorded; None where nothing was."""
    recorded = [amount for amount in amounts if amount is not None]
    return round(sum(recorded), 6) if recorded else None


def _promised(results: Sequence[Trace | Refusal], right: Floats, known: Sequence[int]) -> dict[str, Any]:
    """How often the records say that the answers are right, by how many points too often, and how that is calibrated.

    `reliability` has, for each tenth of what was promised, how many questions it holds, what was promised them, and how
    many of them are right, in percent; `ece` is the mean distance of both (expected calibration error, in points).
    """
    posteriors = [result.posterior if isinstance(result, Trace) else 0.0 for result in results]
    probabilities = [posteriors[place] for place in known] if known else posteriors
    if any(each is None for each in probabilities):
        return {"promised": None, "over_promised": None, "reliability": [], "ece": None}
    promised = 100 * np.array([each or 0.0 for each in probabilities])
    excess = round(float(promised.mean() - 100 * right.mean()), 2) if known else None
    bins = _reliability(promised, 100 * right) if known else []
    error = sum(row["questions"] * abs(row["promised"] - row["right"]) for row in bins) / max(len(promised), 1)
    facts = {"promised": round(float(promised.mean()), 2), "over_promised": excess}
    return {**facts, "reliability": bins, "ece": round(error, 2) if known else None}


def _reliability(promised: Floats, right: Floats) -> list[dict[str, Any]]:
    tenths = np.minimum(promised // 10, 9)
    inside = [tenths == tenth for tenth in range(10)]
    return [
        {
            "questions": int(mask.sum()),
            "promised": round(float(promised[mask].mean()), 2),
            "right": round(float(right[mask].mean()), 2),
        }
        for mask in inside
        if mask.any()
    ]


def _agreement(results: Sequence[Trace | Refusal]) -> float | None:
    """In percent, how many of the experts asked gave the answer, over questions that several were asked."""
    shares = []
    for result in results:
        if isinstance(result, Trace) and len(result.candidates) > 1 and result.answer.votes:
            shares.append(len(result.answer.votes[0].members) / len(result.candidates))
    return round(100 * float(np.mean(shares)), 2) if shares else None


def _by_family(replay: Replay, known: Sequence[int], right: Floats) -> dict[str, float]:
    families = np.array([replay.records.questions[place].family for place in known])
    return {
        str(name): _percent(right[families == name].sum(), (families == name).sum()) for name in np.unique(families)
    }


def _references(replay: Replay, known: Sequence[int]) -> dict[str, tuple[Floats, int]]:
    """Ways that need no recruiting, what each is right about, and its calls.

    They are the expert that is best by its profile, the best in hindsight, a plain vote of all, and whoever is right.
    """
    questions = [replay.records.questions[place] for place in known]
    right = np.zeros((len(replay.experts), len(known)))
    read: list[list[str | None]] = []
    for row, expert in enumerate(replay.experts):
        recorded = replay.records.answers[expert]
        texts = [recorded[question.id].text if question.id in recorded else "" for question in questions]
        right[row] = [is_right(text, q.known()) for text, q in zip(texts, questions, strict=True)]
        read.append([extract(t, kind_of(q.known()), q.text) for t, q in zip(texts, questions, strict=True)])
    records = replay.profiles.experts
    skill = [(records[e].overall.right + 1) / (records[e].overall.asked + 2) for e in replay.experts]
    best_first = np.argsort(-np.array(skill), kind="stable")
    voted = np.zeros(len(known))
    for place in range(len(known)):
        answers = {row: read[row][place] for row in best_first.tolist()}
        counts = Counter(answer for answer in answers.values() if answer is not None)
        if counts:
            winner = counts.most_common(1)[0][0]
            voted[place] = right[next(row for row, answer in answers.items() if answer == winner), place]
    expert_count, n = len(replay.experts), len(known)
    return {
        "best_single": (right[best_first[0]], n),
        "best_single_hindsight": (right[right.mean(axis=1).argmax()], n),
        "vote_of_all": (voted, expert_count * n),
        "oracle": (right.max(axis=0), expert_count * n),
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * float(part) / float(whole), 2) if whole else 0.0


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw quality against cost: recorded money, else experts asked a question; accuracy, else agreement."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, graded = report["settings"], bool(report["known"])
    priced = all(row["cost"] is not None for row in rows.values())
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (name, row) in enumerate(rows.items()):
        at = row["cost"] / report["questions"] if priced else row["calls_per_question"]
        quality = row["accuracy"] if graded else row["agreement"]
        if quality is None:
            continue
        if graded:
            low, high = row["ci95"]
            axes.plot([at, at], [low, high], color="#9ca3af", linewidth=1)
        symmoe = row["setting"]["recruiter"] == SYMMOE
        colour = "#2563eb" if symmoe else "#ef4444"
        axes.plot(at, quality, "o" if row["setting"]["quality"] is None else "s", color=colour)
        axes.annotate(name, (at, quality), textcoords="offset points", xytext=(6, 4 - 9 * (place % 2)), fontsize=7)
    if graded:
        axes.axhline(report["references"]["best_single"]["accuracy"], color="#111827", linestyle="--", linewidth=1)
    axes.set_xlabel("cost of a question" if priced else "experts asked a question")
    axes.set_ylabel("right answers, % (dashed: best single expert)" if graded else "experts that agree, %")
    axes.set_title(f"{report['questions']} recorded questions, {len(report['experts'])} experts")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


class Lessons:
    """Recorded questions with known answers, to make profiles of; each is tagged once."""

    def __init__(self, pool: Pool, records: Records) -> None:
        records.check(pool.names)
        self._questions = records.known()
        embedder = build_kept_embedder(pool)
        tagger = TaggedOnce(build_tagger(pool, embedder))
        self._assembly = Assembly(_recorded(pool, records), tagger=tagger, embedder=embedder, records=records)

    def profiles(self, seed: int) -> Profiles:
        """Profiles of all experts, from all questions."""
        return profile_records(self._assembly, self._questions, tag_questions(self._assembly, self._questions), seed)

    def joined(self, profiles: Profiles, newcomer: str, count: int, labelled: bool) -> Profiles:
        """The profiles with the newcomer's made anew, as if it had joined with so many questions."""
        others = {name: profile for name, profile in profiles.experts.items() if name != newcomer}
        known = replace(profiles, experts=others)
        profile, _ = onboard(self._assembly, newcomer, known, self._questions, count, labelled)
        return replace(profiles, experts={**others, newcomer: profile})


def onboarding(
    pool: Pool,
    lessons: Lessons,
    asked: Records,
    newcomers: Sequence[str],
    counts: Sequence[int],
    setting: Setting,
    seed: int,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """What is lost where one expert joined with few questions, labelled or not, or not at all, instead of all.

    `asked` are other questions than those of the lessons. Differences from full records are paired.
    """
    tell("full records")
    whole = lessons.profiles(seed)
    replay = Replay(pool, asked, profiles=whole)
    known = [place for place, question in enumerate(asked.questions) if question.answer is not None]
    full = _right(replay, replay.run(setting, seed), known)
    rows: dict[str, dict[str, Any]] = {}
    for newcomer in newcomers:
        ways = {
            f"{count} questions{'' if labelled else ', no labels'}": (count, labelled)
            for count in counts
            for labelled in (True, False)
        }
        left = _right(replay, replay.run(setting, seed, without=(newcomer,)), known)
        rows[newcomer] = {"not at all": _graded(left, seed) | {"under_full": paired(left, full, seed)}}
        for way, (count, labelled) in ways.items():
            tell(f"{newcomer}, {way}")
            profiles = lessons.joined(whole, newcomer, count, labelled)
            right = _right(replay, replay.run(setting, seed, profiles), known)
            rows[newcomer][way] = _graded(right, seed) | {"under_full": paired(right, full, seed)}
    return {
        "setting": asdict(setting),
        "questions": len(known),
        "full": _graded(full, seed),
        "newcomers": rows,
    }


def _recorded(pool: Pool, records: Records) -> Pool:
    """The pool with its experts answering from records."""
    engine = EngineConfig(kind="recorded", records=str(Path(records.where).resolve()))
    return pool.model_copy(update={"engine": engine})
