"""Spreading work over nearly equal experts, by windows of questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiting import numbered
from symmoe.types import Explanation, Query, Recruitment, Skills

WINDOW = 256
NOTE = "chosen before balancing: in a batch an expert of nearly the same share may be asked instead"
_STEP = 0.5


class BalancedRecruiter:
    """The inner recruiter's choice, tilted away from experts that had more than an equal part of the last windows.

    An expert can lose a slot only to one whose share is at least `1 - balance` of its own. The tilt changes only
    between windows of `WINDOW` questions, so that the choice for a question does not depend on its neighbours
    (balancing over the corpus, not the micro-batch, keeps experts special: arXiv 2501.11873). Questions with the same
    text share one decision. In a batch of several windows a recruitment depends on the windows before it.
    """

    def __init__(self, inner: PosteriorRecruiter, balance: float) -> None:
        self._inner = inner
        self._limit = -math.log1p(-min(balance, 0.999))

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """Recruit as the inner recruiter does, with the tilt applied."""
        chosen = self._inner.recruit(queries, skills, k, seed)
        by_text: dict[str, tuple[str, ...]] = {}
        texts = list(dict.fromkeys(query.text for query in queries))
        first = {
            query.text: recruitment for query, recruitment in zip(reversed(queries), reversed(chosen), strict=True)
        }
        tilt: dict[str, float] = {}
        for start in range(0, len(texts), WINDOW):
            window = texts[start : start + WINDOW]
            by_text.update({text: self._tilted(first[text], tilt) for text in window})
            self._move(tilt, Counter(by_text[text][0] for text in window), first[window[0]].shares)
        return [
            replace(recruitment, assignments=numbered(query, by_text[query.text]))
            for query, recruitment in zip(queries, chosen, strict=True)
        ]

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """The inner recruiter's explanation, with a note that balancing, which depends on the batch, is not in it."""
        explanation = self._inner.explain(query, skills, k, seed)
        return replace(explanation, note="; ".join(filter(None, (explanation.note, NOTE))))

    def _move(self, tilt: dict[str, float], firsts: Counter[str], experts: Iterable[str]) -> None:
        names = list(experts)
        equal = 1 / len(names)
        for name in names:
            load = firsts[name] / firsts.total()
            tilt[name] = min(self._limit, max(0.0, tilt.get(name, 0.0) + _STEP * self._limit * (load - equal)))

    def _tilted(self, recruitment: Recruitment, tilt: dict[str, float]) -> tuple[str, ...]:
        """As many experts as were recruited, by share less tilt; those recruited if the others cost too much."""
        shares = recruitment.shares
        named = (name for name in shares if shares[name] > 0)
        ranked = sorted(named, key=lambda name: tilt.get(name, 0.0) - math.log(shares[name]))
        chosen = tuple(ranked[: len(recruitment.assignments)])
        return chosen if self._inner.affords(chosen) else tuple(a.expert for a in recruitment.assignments)
