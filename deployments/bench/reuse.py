"""From which cosine an answer may be given again: how often rewordings are found, and how often other questions are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.protocols import Embedder
from symmoe.types import Question

from ..access.similar import alike, likeness
from .pairs import Pair, different, near, same

COSINES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
TARGET = 0.001
_LIST = 5


def measure_reuse(
    embedder: Embedder,
    wordings: Sequence[Sequence[str]],
    questions: Sequence[Question],
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Shares of pairs that count as one question, by kind and by the least cosine, with the rules and by cosine alone.

    `wordings` are questions each worded several ways, `questions` those of a suite. `least` is the lowest
    cosine at which no kind of pair that asks different things passes more often than the target, None if none is.
    """
    pairs = [*same(wordings), *near(questions, seed), *different(questions)]
    texts = sorted({text for pair in pairs for text in (pair.one, pair.other)})
    tell(f"embedding {len(texts)} questions")
    vectors = embedder.embed(texts)
    tell(f"comparing {len(pairs)} pairs")
    cosines, passed = _compared(pairs, texts, vectors)
    kinds: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        kinds[pair.kind].append(place)
    report = {kind: _rates(cosines[places], passed[places]) for kind, places in kinds.items()}
    return {
        "questions": len(questions),
        "wordings": sum(map(len, wordings)),
        "cosines": list(COSINES),
        "kinds": report,
        "target": TARGET,
        "least": _least(report, "with_rules"),
        "least_by_cosine_alone": _least(report, "by_cosine"),
        "nearest_wrong": _nearest_wrong(pairs, cosines, passed),
    }


def _compared(
    pairs: Sequence[Pair], texts: Sequence[str], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The cosine of each pair, and whether the rules let it pass, as the cache has it."""
    places, marks = {text: place for place, text in enumerate(texts)}, [likeness(text) for text in texts]
    ends = np.array([[places[pair.one], places[pair.other]] for pair in pairs])
    cosines = np.concatenate(
        [np.einsum("nd,nd->n", vectors[part[:, 0]], vectors[part[:, 1]]) for part in np.array_split(ends, 64)]
    )
    passed = [
        one is not None and other is not None and alike(one, other)
        for one, other in ((marks[one], marks[other]) for one, other in ends)
    ]
    return cosines.astype(np.float32), np.array(passed)


def _rates(cosines: NDArray[np.float32], passed: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "pairs": len(cosines),
        "rules": float(passed.mean()),
        "with_rules": [float((passed & (cosines >= least)).mean()) for least in COSINES],
        "by_cosine": [float((cosines >= least).mean()) for least in COSINES],
    }


def _least(report: dict[str, Any], way: str) -> float | None:
    worst = [max(row[way][place] for kind, row in report.items() if kind != "same") for place in range(len(COSINES))]
    return next((least for least, rate in zip(COSINES, worst, strict=True) if rate <= TARGET), None)


def _nearest_wrong(
    pairs: Sequence[Pair], cosines: NDArray[np.float32], passed: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The pairs of different questions that came nearest of those that the rules let pass."""
    wrong = [place for place, pair in enumerate(pairs) if pair.kind != "same" and passed[place]]
    wrong.sort(key=lambda place: -cosines[place])
    return [
        {
            "kind": pairs[place].kind,
            "one": pairs[place].one,
            "other": pairs[place].other,
            "cosine": float(cosines[place]),
        }
        for place in wrong[:_LIST]
    ]
