"""`symmoe bench replay`: routers compared by recorded scores of real models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from symmoe.errors import SuiteError
from symmoe.profiles.marking import interval95
from symmoe.protocols import Embedder
from symmoe.routing.facets import facets_of
from symmoe.routing.learning import learn_taxonomy
from symmoe.routing.profiles import build_profile, identity, parents_of, recorded
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiters.published import PublishedRecruiter
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.types import Profiles, Skills

_SPLIT_SUFFIX = re.compile(r"[-_](train|test)$")
Shares = NDArray[np.float64]
Embeddings = NDArray[np.float32]
NEIGHBOURS = 80
CLUSTERS = 32
RIDGE_ALPHA = 10.0
SKILLS_PER_QUERY, LEAST_SIMILARITY = 5, 0.3
RESAMPLES = 2000
COMPARED_WITH = ("best_single", "clusters")
_Earned = Mapping[str, list[NDArray[np.float64]]]


class _Row(BaseModel):
    question: str = Field(min_length=1)
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1)


_ROWS = TypeAdapter(list[_Row])


@dataclass(frozen=True, slots=True)
class RecordedSet:
    """One set of questions: `scores[i, j]`, 0..1, is the score of model `j` on question `i`."""

    name: str
    questions: tuple[str, ...]
    models: tuple[str, ...]
    scores: NDArray[np.float64]


def read_sets(directory: Path, models: Sequence[str] | None = None) -> list[RecordedSet]:
    """Read every JSON file of a directory as a set named after the file, without `_train` or `_test` at its end.

    All sets must score the same models: those given, else those of the first file, in this order. Raises `SuiteError`,
    which names the file and the row at fault.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise SuiteError(f"{directory}: no JSON file in it")
    sets: list[RecordedSet] = []
    for file in files:
        sets.append(_read_set(file, models or (sets[0].models if sets else None)))
        if sets[-1].name in [each.name for each in sets[:-1]]:
            raise SuiteError(f"{file}: another file of the directory is also named {sets[-1].name!r}")
    return sets


def _read_set(file: Path, models: Sequence[str] | None) -> RecordedSet:
    try:
        rows = _ROWS.validate_json(file.read_bytes())
    except OSError as error:
        raise SuiteError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SuiteError(f"{file}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from error
    if not rows:
        raise SuiteError(f"{file}: no questions in it")
    names = tuple(models or rows[0].scores)
    for number, row in enumerate(rows):
        if set(row.scores) != set(names):
            different = ", ".join(sorted(set(row.scores) ^ set(names)))
            raise SuiteError(f"{file}: {number}.scores: not the models of the other rows and sets ({different})")
    scores = np.array([[row.scores[name] for name in names] for row in rows])
    return RecordedSet(_SPLIT_SUFFIX.sub("", file.stem), tuple(row.question for row in rows), names, scores)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A recorded set with the embeddings of its questions, unit rows `[n, d]`."""

    recorded: RecordedSet
    vectors: Embeddings


Route = Callable[[Embedded], Shares]
"""A fitted router: shares `[n, models]` for a set. It must not look at scores; only the oracle does."""
Fit = Callable[[Sequence[Embedded], int, Embedder], Route]
"""Fits a router on training sets, with a seed and the embedder of their vectors."""


def fit_random(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """Equal shares for all models."""
    models = len(train[0].recorded.models)
    return lambda asked: np.full((len(asked.vectors), models), 1 / models)


def fit_best_single(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """Always the model with the best mean over the training sets."""
    means = np.mean([each.recorded.scores.mean(axis=0) for each in train], axis=0)
    return lambda asked: one_hot(np.full(len(asked.vectors), means.argmax()), len(means))


def fit_dataset_best(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The best model of the question's set in training, which it is given; for unseen sets the best single model."""
    best = {each.recorded.name: int(each.recorded.scores.mean(axis=0).argmax()) for each in train}
    otherwise = fit_best_single(train, seed, embedder)
    models = len(train[0].recorded.models)

    def route(asked: Embedded) -> Shares:
        if asked.recorded.name not in best:
            return otherwise(asked)
        return one_hot(np.full(len(asked.vectors), best[asked.recorded.name]), models)

    return route


def fit_knn(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the best mean over the nearest training questions."""
    from sklearn.neighbors import KNeighborsRegressor

    vectors, scores = stacked(train)
    fitted = KNeighborsRegressor(min(NEIGHBOURS, len(vectors)), metric="cosine").fit(vectors, scores)
    return lambda asked: pick(fitted.predict(asked.vectors))


def fit_clusters(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The best model of the question's k-means cluster (the Avengers, arXiv 2505.19797, without their vote)."""
    from sklearn.cluster import KMeans

    vectors, scores = stacked(train)
    fitted = KMeans(min(CLUSTERS, len(np.unique(vectors, axis=0))), n_init=4, random_state=seed).fit(vectors)
    means = np.stack([scores[fitted.labels_ == label].mean(axis=0) for label in range(fitted.n_clusters)])
    return lambda asked: pick(means[fitted.predict(asked.vectors)])


def fit_ridge(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the highest score predicted by ridge regression on the embedding."""
    from sklearn.linear_model import Ridge

    vectors, scores = stacked(train)
    fitted = Ridge(RIDGE_ALPHA).fit(vectors, scores)
    return lambda asked: pick(fitted.predict(asked.vectors).reshape(len(asked.vectors), -1))


def fit_oracle(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The best model of each question by its scores: an upper bound."""
    return lambda asked: pick(asked.recorded.scores)


def stacked(train: Sequence[Embedded]) -> tuple[Embeddings, Shares]:
    """Vectors and scores of all sets, concatenated."""
    return np.concatenate([e.vectors for e in train]), np.concatenate([e.recorded.scores for e in train])


def pick(predicted: Shares) -> Shares:
    """Shares `[n, models]`: 1 for the model with the highest prediction."""
    return one_hot(predicted.argmax(axis=1), predicted.shape[1])


def one_hot(picked: NDArray[np.intp], models: int) -> Shares:
    """Shares `[n, models]`: 1 for the model picked, by index."""
    return np.eye(models)[picked]


def fit_symmoe(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the best expected accuracy by symmoe's recruiter, on records of the training questions."""
    recruiter = PosteriorRecruiter(learned_from(train))
    return lambda asked: pick(recruiter.values(needs(asked)).astype(np.float64))


def learned_from(train: Sequence[Embedded]) -> Profiles:
    """Every model's record of the training questions, grouped by set."""
    skills = [needed for each in train for needed in needs(each)]
    questions = [question for each in train for question in each.recorded.questions]
    groups = [each.recorded.name for each in train for _ in each.recorded.questions]
    scores, idents = stacked(train)[1], [identity(question) for question in questions]
    records = {
        model: build_profile(model, skills, scores[:, column].tolist(), idents=idents)
        for column, model in enumerate(train[0].recorded.models)
    }
    return Profiles(records, questions=recorded(questions, groups, skills))


def needs(asked: Embedded) -> list[Skills]:
    """The skills of a set's questions without topics: facets and vectors."""
    rows = zip(asked.recorded.questions, asked.vectors, strict=True)
    return [Skills(str(n), (), facets_of(question), vector.tobytes()) for n, (question, vector) in enumerate(rows)]


def fit_symbolic_moe(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The published rule with one draw, measured by its expectation over draws.

    Its keywords are topics learned from the questions: the published annotation would need an LLM to run.
    """
    vectors, scores = stacked(train)
    questions = [question for each in train for question in each.recorded.questions]
    forms = [facets_of(question)[0] for question in questions]
    taxonomy = learn_taxonomy(questions, vectors, forms, seed)
    tagger = EmbeddingTagger(embedder, taxonomy, SKILLS_PER_QUERY, LEAST_SIMILARITY)
    skills = _tag(tagger, questions, vectors)
    models = train[0].recorded.models
    records = {
        model: build_profile(model, skills, scores[:, column].tolist(), every_topic=True)
        for column, model in enumerate(models)
    }
    recruiter = PublishedRecruiter(Profiles(records, parents_of(skills)))

    def route(asked: Embedded) -> Shares:
        shares = [recruiter.shares(skills) for skills in _tag(tagger, asked.recorded.questions, asked.vectors)]
        return np.array([[own.get(model, 0.0) for model in models] for own in shares])

    return route


def _tag(tagger: EmbeddingTagger, questions: Sequence[str], vectors: Embeddings) -> list[Skills]:
    """The skills of questions with known vectors."""
    facets = [facets_of(question) for question in questions]
    topics = tagger.topics(vectors, facets)
    return [Skills(str(n), *found) for n, found in enumerate(zip(topics, facets, strict=True))]


ROUTERS: dict[str, Fit] = {
    "random": fit_random,
    "best_single": fit_best_single,
    "dataset_best": fit_dataset_best,
    "knn": fit_knn,
    "clusters": fit_clusters,
    "ridge": fit_ridge,
    "symbolic_moe": fit_symbolic_moe,
    "symmoe": fit_symmoe,
    "oracle": fit_oracle,
}


def replay(train: Sequence[RecordedSet], test: Sequence[RecordedSet], embedder: Embedder, seed: int) -> dict[str, Any]:
    """The score of each router on each test set and the mean over sets, in percent, with 95 % bootstrap intervals.

    Questions are resampled within each set. `over_best_single` and `over_clusters` are paired differences of means in
    points, on the same resampled questions.
    """
    fitted_on = [Embedded(each, embedder.embed(each.questions)) for each in train]
    asked = [Embedded(each, embedder.embed(each.questions)) for each in test]
    earned: dict[str, list[NDArray[np.float64]]] = {}
    for name, fit in ROUTERS.items():
        route = fit(fitted_on, seed, embedder)
        earned[name] = [(route(each) * each.recorded.scores).sum(axis=1) for each in asked]
    resampled = _resampled_means(earned, seed)
    names = [each.name for each in train]
    seen = {each.name: each.name in names for each in test}
    return {
        "routers": {name: _row(name, earned, resampled, seen) for name in earned},
        "sets": {each.name: {"n": len(each.questions), "seen": seen[each.name]} for each in test},
    }


def _row(
    name: str, earned: _Earned, resampled: Mapping[str, NDArray[np.float64]], seen: Mapping[str, bool]
) -> dict[str, Any]:
    sets = {each: 100 * float(scores.mean()) for each, scores in zip(seen, earned[name], strict=True)}
    row: dict[str, Any] = {
        "sets": {each: round(percent, 2) for each, percent in sets.items()},
        "mean": round(float(np.mean(list(sets.values()))), 2),
        "ci95": interval95(100 * resampled[name]),
    }
    for part, wanted in (("mean_seen", True), ("mean_unseen", False)):
        among = [percent for each, percent in sets.items() if seen[each] is wanted]
        row[part] = round(float(np.mean(among)), 2) if among else None
    for base in COMPARED_WITH:
        points = np.mean(
            [scores.mean() - other.mean() for scores, other in zip(earned[name], earned[base], strict=True)]
        )
        over = resampled[name] - resampled[base]
        row[f"over_{base}"] = {"points": round(100 * float(points), 2), "ci95": interval95(100 * over)}
    return row


def _resampled_means(earned: _Earned, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mean over sets of each router in each resample; a resample has the same questions for all routers."""
    rng = np.random.default_rng(seed)
    totals = np.zeros((RESAMPLES, len(earned)))
    sets = [np.stack(of_set) for of_set in zip(*earned.values(), strict=True)]
    for got in sets:
        size = got.shape[1]
        for resample in range(RESAMPLES):
            totals[resample] += got[:, rng.integers(0, size, size)].mean(axis=1)
    return {name: totals[:, column] / len(sets) for column, name in enumerate(earned)}


def plot_replay(report: dict[str, Any], path: Path) -> None:
    """Plot the mean over sets of each router, with 95 % intervals, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sorted(report["routers"].items(), key=lambda item: item[1]["mean"])
    figure = Figure(figsize=(8, 0.45 * len(ranked) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (name, row) in enumerate(ranked):
        low, high = row["ci95"]
        colour = "#2563eb" if name == "symmoe" else "#fbbf24" if name == "oracle" else "#9ca3af"
        axes.barh(place, row["mean"], color=colour, height=0.7)
        axes.plot([low, high], [place, place], color="#111827", linewidth=1.2)
        axes.text(high + 0.5, place, f"{row['mean']:.1f}", va="center")
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
    axes.set_xlabel("percent earned with one expert for each question, mean over sets, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
