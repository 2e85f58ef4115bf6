"""Onboarding an expert: a few questions, asked of it and, where nobody knows the answers, of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from symmoe.aggregation.extraction import extract
from symmoe.build import Assembly, expert_fingerprint
from symmoe.evaluation.matrix import Matrix, run_matrix
from symmoe.evaluation.profiling import tag_questions
from symmoe.evaluation.scoring import as_query
from symmoe.pipeline import Watch
from symmoe.routing.onboarding import borrow, diverse_questions, earned_by_agreement, likeness
from symmoe.routing.profiles import build_profile
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.types import ExpertProfile, Profiles, Question, Skills


def onboard(
    joined: Assembly,
    newcomer: str,
    profiles: Profiles,
    questions: Sequence[Question],
    count: int,
    labelled: bool,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> tuple[ExpertProfile, dict[str, float]]:
    """A newcomer's record from `count` of the questions, and how alike it is to each expert of `profiles`.

    `joined` is the pool with the newcomer in it. Without labels an answer earns the share of the pool's weight that
    agrees with it.
    """
    skills = tag_questions(joined, questions)
    chosen = diverse_questions(skills, count)
    asked, needed = [questions[i] for i in chosen], [skills[i] for i in chosen]
    everyone = [newcomer] if labelled else [newcomer, *profiles.experts]
    matrix = run_matrix(joined.executor, everyone, joined.models, asked, joined.pool.sampling, watch)
    if labelled:
        earned = [float(right) for right in matrix.right[newcomer]]
    else:
        earned = _agreement(joined, newcomer, profiles, matrix, needed)
    own = build_profile(
        newcomer,
        needed,
        earned,
        tokens=matrix.spent[newcomer] / len(asked),
        fingerprint=expert_fingerprint(joined.pool, newcomer),
        date=date.today().isoformat(),
    )
    alike = likeness(profiles, needed, earned)
    return borrow(own, profiles, alike), alike


def _agreement(
    joined: Assembly, newcomer: str, profiles: Profiles, matrix: Matrix, needed: Sequence[Skills]
) -> list[float]:
    """What the newcomer's answers earn by agreeing with the pool, each expert weighing its share of a recruitment."""
    queries = [as_query(question, joined.pool.sampling) for question in matrix.questions]
    shares = [r.shares for r in PosteriorRecruiter(profiles).recruit(queries, needed, 1, 0)]
    read = {
        expert: [extract(text, query.kind, query.text) for text, query in zip(texts, queries, strict=True)]
        for expert, texts in matrix.texts.items()
    }
    others = [[(read[expert][i], share) for expert, share in own.items()] for i, own in enumerate(shares)]
    return earned_by_agreement(read[newcomer], others)
