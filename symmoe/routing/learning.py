"""Learning a taxonomy from validation questions: cluster them, then name each cluster in readable words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.types import Skill

QUESTIONS_PER_SKILL = 45
LEAST_SKILLS, LEAST_QUESTIONS = 4, 8
"""A facet gets four skills at least if there are eight questions for each."""
DUPLICATE = 0.93
"""Two topics whose centres are nearer than this cosine are one."""
EXAMPLES = 8
_EXAMPLE_LENGTH = 400
_TERMS = r"(?u)\b[^\W\d_]{3,}\b|[\u4e00-\u9fff]{2}"

Floats = NDArray[np.float32]


def learn_taxonomy(
    texts: Sequence[str],
    vectors: Floats,
    forms: Sequence[str],
    seed: int,
    keywords: Sequence[Sequence[str]] | None = None,
    per_skill: int = QUESTIONS_PER_SKILL,
) -> tuple[Skill, ...]:
    """Topics of questions, clustered within each answer format and language (`forms`, one for each question).

    A topic is named by the `keywords` that annotators gave its questions, or without them by the words most distinctive
    of its questions; its examples are the questions nearest to its centre. `vectors` are unit rows, `[n, d]`.
    """
    labels = _merged(_clustered(vectors, forms, per_skill, seed), vectors)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    names = _names(texts, members, forms, keywords)
    return tuple(
        Skill(
            name,
            ", ".join(terms),
            tuple(texts[i][:_EXAMPLE_LENGTH] for i in _central(vectors, cluster)),
            forms[cluster[0]],
        )
        for (name, terms), cluster in zip(names, members, strict=True)
    )


def _clustered(vectors: Floats, forms: Sequence[str], per_skill: int, seed: int) -> NDArray[np.intp]:
    from sklearn.cluster import KMeans

    labels = np.zeros(len(vectors), dtype=np.intp)
    first = 0
    by_form = np.array(forms)
    for form in dict.fromkeys(forms):
        rows = np.flatnonzero(by_form == form)
        wanted = max(1, min(max(round(len(rows) / per_skill), LEAST_SKILLS), len(rows) // LEAST_QUESTIONS))
        wanted = min(wanted, len(np.unique(vectors[rows], axis=0)))
        labels[rows] = first + KMeans(wanted, n_init=2, random_state=seed).fit_predict(vectors[rows])
        first += wanted
    return labels


def _merged(labels: NDArray[np.intp], vectors: Floats) -> NDArray[np.intp]:
    """Near-duplicates become one, the later going into the earlier."""
    present = np.unique(labels)
    centres = np.stack([vectors[labels == label].mean(axis=0) for label in present])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    near = centres @ centres.T >= DUPLICATE
    target_of = {label: present[int(row.argmax())] for label, row in zip(present, near, strict=True)}
    return np.array([target_of[label] for label in labels])


def _central(vectors: Floats, cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    nearest = np.argsort(-(vectors[cluster] @ vectors[cluster].mean(axis=0)), kind="stable")
    return cluster[nearest[:EXAMPLES]]


def _names(
    texts: Sequence[str],
    members: Sequence[NDArray[np.intp]],
    forms: Sequence[str],
    keywords: Sequence[Sequence[str]] | None,
) -> list[tuple[str, list[str]]]:
    """A distinct name and the distinctive terms of each cluster."""
    named: list[tuple[str, list[str]]] = []
    taken: set[str] = set()
    for cluster, terms in zip(members, _distinctive(texts, members), strict=True):
        frequent = [word for word, _ in Counter(w for i in cluster for w in (keywords or {i: ()})[i]).most_common(3)]
        frequent = [word for word in (w.replace(":", " ").strip() for w in frequent) if word]
        words = frequent or terms or [forms[cluster[0]].replace(":", "")]
        name = _free(words, taken)
        taken.add(name)
        named.append((name, [*dict.fromkeys([*words, *terms])][:8]))
    return named


def _distinctive(texts: Sequence[str], members: Sequence[NDArray[np.intp]]) -> list[list[str]]:
    """The terms frequent in a cluster and rare in others (class-based tf-idf)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents = [" ".join(texts[i] for i in cluster) for cluster in members]
    vectorizer = TfidfVectorizer(token_pattern=_TERMS, sublinear_tf=True, stop_words="english", max_df=0.5)
    try:
        weights: Any = vectorizer.fit_transform(documents)
    except ValueError:  # one cluster, or nothing but stop words
        return [[] for _ in documents]
    terms = vectorizer.get_feature_names_out()
    best = [np.argsort(-row, kind="stable")[:8] for row in weights.toarray()]
    return [[str(terms[i]) for i in row if weights[line, i] > 0] for line, row in enumerate(best)]


def _free(words: Sequence[str], taken: set[str]) -> str:
    """The shortest run of words that is no other skill's name, numbered where words run out."""
    for size in range(min(2, len(words)), len(words) + 1):
        name = " ".join(words[:size])[:40]
        if name not in taken:
            return name
    return next(name for n in count(2) if (name := f"{words[0][:34]} {n}") not in taken)
