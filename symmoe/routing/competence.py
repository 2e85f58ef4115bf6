"""Learns from recorded questions how likely each expert is to answer a new question rightly.

What an expert earned on a question is split into the mean over the experts asked, which only says how hard the question
is, and the expert's difference from that mean, which decides between experts. Questions come in groups (subjects,
families, data sets, named by whoever recorded them), and each group has regions. The difference expected in a region is
shrunk towards that of its group, and the group's towards the expert's overall difference, by how much such means vary
in the records (empirical Bayes: Efron and Morris 1973).

Linear discriminants on the embedding of a new question (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, §4.3) say which regions it may come from; the less it resembles what was asked there, the less they count. Far
from all records only the overall difference is left, in which every group counts as one draw from the population of
groups, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.facets import is_format
from symmoe.routing.tallies import SAMPLED, Account, Floats, Judgement, temperature_of
from symmoe.routing.topics import ANYWHERE, TopicEvidence
from symmoe.types import Profiles, RecordedQuestion, Skills, Tally

Doubles = NDArray[np.float64]

LEAST_QUESTIONS = 40
"""From fewer recorded questions nothing is learned."""
REGION = 80
"""A group has a region for every so many of its questions."""
GROUP_WORTH, REGION_WORTH = (1.0, 20.0), (1.0, 300.0)
"""Bounds of how many answers the prior of a group and of a region is worth; between them it is estimated. Groups are
few, so that their spread is poorly known, and to draw them together too far makes one record of all."""
UNNAMED = 16
"""Into so many groups at most questions are divided that nobody grouped."""
NOWHERE = 0.1
"""As how much of a well-known group it counts that an expert of whom little is known is an average one."""
TEMPERED = 0.5
"""Log-densities count as half: a question's neighbours in 384 dimensions are no independent witnesses."""
STRANGE = 0.01
"""A question less like a region's than all but this part of those recorded is trusted to it in part, or not at all."""
SHOWN = (0.05, 0.1)
"""A group says nothing of answer formats that fewer of its questions asked for, and all from the second bound on."""
_OPEN = "format: open answer"
_FOLDS, _KEPT = 4, 4
_BOUNDS = (0.01, 0.99)
_LIKE, _NAMED = 0.5, 0.01


@dataclass(frozen=True, slots=True)
class Places:
    """Recorded questions in embedding space: unit `vectors` `[n, d]`, and the group, region and answer format of each.

    `names` are the groups' names, `home` the group of every region, and `centres` `[regions, d]` the regions' centres
    after `whiten` `[d, d]`, which makes the spread within regions spherical. `typical` holds the sorted squared
    distances of questions from their regions, `frequent` the log-frequencies of regions, and `shown` the fraction of
    each group's questions that ask for a format.
    """

    vectors: Floats
    names: tuple[str, ...]
    groups: NDArray[np.intp]
    formats: tuple[str, ...]
    regions: NDArray[np.intp]
    home: NDArray[np.intp]
    centres: Floats
    whiten: Floats
    typical: Floats
    frequent: Floats
    shown: Mapping[str, Doubles]

    def weights(self, vectors: Floats, formats: Sequence[str]) -> Floats:
        """How much each region counts for each question, `[questions, regions]`; a row sums to 1 at most."""
        placed = vectors @ self.whiten
        distances = (placed**2).sum(axis=1)[:, None] + (self.centres**2).sum(axis=1) - 2 * placed @ self.centres.T
        logits = self.frequent - TEMPERED * distances / 2
        logits -= logits.max(axis=1, keepdims=True)
        weights = np.exp(logits)
        weights /= weights.sum(axis=1, keepdims=True)
        farther = 1 - np.searchsorted(self.typical, distances) / len(self.typical)
        weights *= np.clip(farther / STRANGE, 0, 1)
        place = {form: number for number, form in enumerate(dict.fromkeys(formats))}
        format_weights = np.stack([self._speaks_of(form) for form in place])
        return np.asarray(weights * format_weights[[place[form] for form in formats]][:, self.home], dtype=np.float32)

    def _speaks_of(self, form: str) -> Doubles:
        """How far each group can speak of questions that ask for this answer format."""
        zeros = np.zeros(len(self.names))
        if form in ("", _OPEN):
            return zeros + 1
        low, high = SHOWN
        return np.clip((self.shown.get(form, zeros) - low) / (high - low), 0, 1)


@dataclass(frozen=True, slots=True)
class Expected:
    """Every expert's expected accuracy, `[questions, experts]`, and how much each group counts for each question.

    `groups` is `[questions, groups]`; a row sums to 1 at most.
    """

    accuracies: Floats
    groups: Floats

    @property
    def known(self) -> Floats:
        """How far each question is like what was recorded, 0..1."""
        return np.asarray(self.groups.sum(axis=1))


def places_of(questions: Mapping[str, RecordedQuestion]) -> Places | None:
    """The recorded questions in embedding space, or None where there are too few to learn from. Cached per mapping."""
    return _placed(_Same(questions)) if len(questions) >= LEAST_QUESTIONS else None


def earned_of(profiles: Profiles) -> Doubles:
    """What experts earned on the recorded questions, `[questions, experts]`, NaN where one was not asked."""
    rows = {ident: row for row, ident in enumerate(profiles.questions)}
    earned = np.full((len(rows), len(profiles.experts)), np.nan)
    for column, profile in enumerate(profiles.experts.values()):
        known = [(rows[ident], score) for ident, score in profile.earned.items() if ident in rows]
        if known:
            at, scores = zip(*known, strict=True)
            earned[list(at), column] = scores
    return earned


def quantised(vector: Floats) -> bytes:
    """A unit vector as signed bytes, scaled so that its largest entry is ±127: a quarter of the size of float32."""
    largest = float(np.abs(vector).max(initial=0.0))
    return bytes(np.rint(vector * (127 / largest if largest else 0.0)).astype(np.int8).tobytes())


class Competence:
    """Expected accuracies, learned on construction from what experts `earned` on recorded questions, `[n, experts]`."""

    def __init__(self, places: Places, earned: Doubles) -> None:
        self.places, self.earned = places, earned
        level, difference = _split(earned)
        self._differences = _Means(difference, places)
        self._levels = _Means(level[:, None], places)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which experts were asked anything, `[experts]`."""
        return np.asarray((~np.isnan(self.earned)).any(axis=0))

    def expected(self, vectors: Floats, formats: Sequence[str]) -> Expected:
        """Every expert's expected accuracy on questions with these unit vectors, `[n, d]`, and answer formats."""
        weights = self.places.weights(vectors, formats)
        accuracies = self._levels.of(weights) + self._differences.of(weights)
        by_group = np.zeros((len(weights), len(self.places.names)), dtype=np.float32)
        np.add.at(by_group.T, self.places.home, weights.T)
        return Expected(np.clip(accuracies, *_BOUNDS).astype(np.float32), by_group)

    def tally(self, group: int, expert: int) -> Tally:
        """What an expert earned in a group, and what it missed."""
        earned = self.earned[self.places.groups == group, expert]
        right, asked = float(np.nansum(earned)), int((~np.isnan(earned)).sum())
        return Tally(round(right, 4), round(asked - right, 4))

    def strength(self, groups: Floats) -> Doubles:
        """How many answers each expert's expected accuracy is worth, for a question with these weights of groups."""
        worth, asked = self._differences.worth, self._differences.asked
        spread = (groups[:, None] ** 2 / (worth + asked)).sum(axis=0) + (1 - groups.sum()) ** 2 / worth
        return np.asarray(1 / np.maximum(spread, 1e-6))


class _Means:
    """The means of `values` `[n, columns]`, NaN where unknown, over regions, over their groups, and overall."""

    def __init__(self, values: Doubles, places: Places) -> None:
        groups, regions, home = places.groups, places.regions, places.home
        sums, self.asked = _totals(values, groups, len(places.names))
        self.worth = _worth(values, groups, np.zeros(len(self.asked), dtype=np.intp), GROUP_WORTH)
        means = sums / np.maximum(self.asked, 1)
        reliable = self.asked / (self.asked + self.worth)
        self.overall = (reliable * means).sum(axis=0) / (reliable.sum(axis=0) + NOWHERE * (values.shape[1] > 1))
        of_groups = (sums + self.worth * self.overall) / (self.asked + self.worth)
        sums, asked = _totals(values, regions, len(home))
        worth = _worth(values, regions, home, REGION_WORTH)
        self._of_regions = (sums + worth * of_groups[home]) / (asked + worth) - self.overall

    def of(self, weights: Floats) -> Doubles:
        """The mean expected where regions have these weights, `[questions, columns]`; what is left is the overall."""
        return np.asarray(self.overall + weights @ self._of_regions)


def _split(earned: Doubles) -> tuple[Doubles, Doubles]:
    """How well experts did on each question `[n]`, as if all were asked, and every expert's difference from that."""
    offsets = np.zeros(earned.shape[1])
    for _ in range(5):
        level = np.nan_to_num(np.nanmean(_or_zero(earned - offsets), axis=1))
        offsets = np.nan_to_num(np.nanmean(_or_zero((earned - level[:, None]).T), axis=1))
        offsets -= offsets[(~np.isnan(earned)).any(axis=0)].mean() if offsets.any() else 0.0
    level[np.isnan(earned).all(axis=1)] = np.nan
    return level, earned - level[:, None]


def _or_zero(rows: Doubles) -> Doubles:
    """Rows of nothing but NaN as zeros, so that they have a mean."""
    return np.where(np.isnan(rows).all(axis=1, keepdims=True), 0.0, rows)


def _totals(values: Doubles, labels: NDArray[np.intp], count: int) -> tuple[Doubles, Doubles]:
    """Sums and counts of what is known, `[count, columns]` both."""
    sums, counts = np.zeros((2, count, values.shape[1]))
    np.add.at(sums, labels, np.nan_to_num(values))
    np.add.at(counts, labels, (~np.isnan(values)).astype(np.float64))
    return sums, counts


def _worth(values: Doubles, labels: NDArray[np.intp], parents: NDArray[np.intp], bounds: tuple[float, float]) -> float:
    """As how many answers the mean of a parent counts: the variance of one answer over that of means about it."""
    low, high = bounds
    sums, counts = _totals(values, labels, len(parents))
    means = sums / np.maximum(counts, 1)
    degrees = float(np.maximum(counts - 1, 0).sum())
    noise = float(np.nansum((values - means[labels]) ** 2)) / max(degrees, 1.0)
    spread = expected = scale = 0.0
    for parent in np.unique(parents):
        child_means, n = means[parents == parent], counts[parents == parent]
        total = np.maximum(n.sum(axis=0), 1)
        parent_mean = (n * child_means).sum(axis=0) / total
        spread += float((n * (child_means - parent_mean) ** 2).sum())
        expected += float(np.maximum((n > 0).sum(axis=0) - 1, 0).sum()) * noise
        scale += float((n.sum(axis=0) - (n**2).sum(axis=0) / total).sum())
    between = (spread - expected) / max(scale, 1e-9)
    return float(np.clip(noise / between, low, high)) if between > 1e-9 else high


class _Same:
    """A mapping that equals itself alone, so that what is made of it can be kept with it."""

    def __init__(self, questions: Mapping[str, RecordedQuestion]) -> None:
        self.questions = questions

    def __hash__(self) -> int:
        return id(self.questions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.questions is self.questions


@lru_cache(_KEPT)
def _placed(same: _Same) -> Places:
    recorded = list(same.questions.values())
    vectors = np.frombuffer(b"".join(each.vector for each in recorded), dtype=np.int8).reshape(len(recorded), -1)
    unit = vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    return place(unit, [each.group for each in recorded], [each.format for each in recorded])


def place(vectors: Floats, named: Sequence[str], formats: Sequence[str], seed: int = 0) -> Places:
    """Arrange questions, given by unit vectors `[n, d]`, groups and answer formats, into groups and regions.

    If all questions are in one group, k-means divides it into several (the Avengers, arXiv 2505.19797).
    """
    names = tuple(dict.fromkeys(named))
    groups = np.array([names.index(name) for name in named], dtype=np.intp)
    if len(names) == 1:
        groups = _clustered(vectors, min(UNNAMED, len(vectors) // REGION), seed)
        names = tuple(f"{names[0]} {number + 1}" for number in range(int(groups.max()) + 1))
    regions, home = np.zeros(len(vectors), dtype=np.intp), list[int]()
    for group in range(len(names)):
        rows = np.flatnonzero(groups == group)
        within = _clustered(vectors[rows], round(len(rows) / REGION), seed)
        regions[rows] = len(home) + within
        home += [group] * (int(within.max()) + 1)
    centres, whiten, typical = _discriminants(vectors, regions, len(home), seed)
    frequent = np.log(np.bincount(regions) / len(regions)).astype(np.float32)
    shown = _shown(groups, formats, len(names))
    at_home = np.array(home, dtype=np.intp)
    return Places(vectors, names, groups, tuple(formats), regions, at_home, centres, whiten, typical, frequent, shown)


def _clustered(vectors: Floats, wanted: int, seed: int) -> NDArray[np.intp]:
    """The cluster of each vector, as many as wanted if so many differ."""
    from sklearn.cluster import KMeans

    wanted = min(wanted, len(np.unique(vectors, axis=0)))
    if wanted < 2:
        return np.zeros(len(vectors), dtype=np.intp)
    labels = KMeans(wanted, n_init=1, random_state=seed).fit_predict(vectors)
    return np.unique(labels, return_inverse=True)[1].astype(np.intp)


def _discriminants(
    vectors: Floats, regions: NDArray[np.intp], count: int, seed: int
) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Centres of regions and the map that whitens what they share, and how far questions lie from their centre.

    The distances, sorted, are those of questions that the discriminants were not made of.
    """
    folds = np.random.default_rng(seed).permutation(len(vectors)) % _FOLDS
    distances = np.zeros(len(vectors), dtype=np.float32)
    for fold in range(_FOLDS):
        held_out = folds == fold
        centres, whiten = _whitened(vectors[~held_out], regions[~held_out], count)
        distances[held_out] = ((vectors[held_out] @ whiten - centres[regions[held_out]]) ** 2).sum(axis=1)
    centres, whiten = _whitened(vectors, regions, count)
    return centres, whiten, np.sort(distances)


def _whitened(vectors: Floats, regions: NDArray[np.intp], count: int) -> tuple[Floats, Floats]:
    sums = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, regions, vectors)
    means = sums / np.maximum(np.bincount(regions, minlength=count), 1)[:, None]
    within = (vectors - means[regions]).astype(np.float64)
    n, d = within.shape
    shared = within.T @ within / n
    shrunk = d / (n + d)
    shared = (1 - shrunk) * shared + shrunk * (np.trace(shared) / d + 1e-9) * np.eye(d)
    values, axes = np.linalg.eigh(shared)
    whiten = (axes / np.sqrt(np.maximum(values, 1e-9))).astype(np.float32)
    return (means @ whiten).astype(np.float32), whiten


def _shown(groups: NDArray[np.intp], formats: Sequence[str], count: int) -> dict[str, Doubles]:
    """Which part of each group's questions asks for each answer format."""
    sizes, each = np.bincount(groups, minlength=count), np.array(formats)
    return {form: np.bincount(groups[each == form], minlength=count) / sizes for form in dict.fromkeys(formats)}


def _format(facets: Sequence[str]) -> str:
    return next((facet for facet in facets if is_format(facet)), "")


class LearnedEvidence:
    """Judges experts by recorded questions.

    Experts that were asked none of these, and questions without an embedding, are judged by their `topics`.
    """

    unlike, instead = "nothing like the question is on record", "judged by what experts are good at elsewhere"

    def __init__(self, learned: Competence, topics: TopicEvidence) -> None:
        self._topics, self._learned = topics, learned
        self._known = learned.known
        self.experts, self.tokens = topics.experts, topics.tokens
        rows = slice(0, None, max(1, len(learned.earned) // SAMPLED))
        right = np.nan_to_num(learned.earned[rows][:, self._known])
        expected = learned.expected(learned.places.vectors[rows], learned.places.formats[rows])
        self.temperature = temperature_of(right, expected.accuracies[:, self._known])

    def judge(self, skills: Sequence[Skills]) -> Judgement:
        """The expected accuracy of every expert on every query."""
        if self._known.all() and all(needed.vector for needed in skills):
            expected = self._expected(skills)
            return Judgement(expected.accuracies, expected.known < _LIKE)
        judged = self._topics.judge(skills)
        embedded = [place for place, needed in enumerate(skills) if needed.vector]
        if embedded:
            expected = self._expected([skills[place] for place in embedded])
            judged.values[embedded] = np.where(self._known, expected.accuracies, judged.values[embedded])
            judged.strange[embedded] = expected.known < _LIKE
        return judged

    def account(self, skills: Skills) -> Account:
        """What the judgement of one query rests on: the groups of recorded questions that it resembles."""
        if not skills.vector:
            return self._topics.account(skills)
        learned, names = self._learned, self._learned.places.names
        weights = self._expected([skills]).groups[0]
        order = [group for group in np.argsort(-weights, kind="stable").tolist() if weights[group] >= _NAMED]
        named = {names[group]: round(float(weights[group]), 4) for group in order}
        rest = round(1 - sum(named.values()), 4)
        tallies = [
            {names[group]: learned.tally(group, expert) for group in order} for expert in range(len(self.experts))
        ]
        return Account(named | ({ANYWHERE: rest} if rest >= _NAMED else {}), learned.strength(weights), tallies)

    def _expected(self, skills: Sequence[Skills]) -> Expected:
        vectors = np.frombuffer(b"".join(needed.vector for needed in skills), dtype=np.float32)
        return self._learned.expected(vectors.reshape(len(skills), -1), [_format(each.facets) for each in skills])
