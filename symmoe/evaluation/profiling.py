"""Building experts' records: each expert in turn answers validation questions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date

from symmoe.build import Assembly, expert_fingerprint
from symmoe.evaluation.matrix import run_matrix
from symmoe.evaluation.scoring import as_query
from symmoe.pipeline import Watch
from symmoe.routing.profiles import build_profile, complete, merge, parents_of
from symmoe.types import Profiles, Question, Skills

LEAST_QUESTIONS = 3
"""A skill that fewer questions need is no evidence."""


def evidence_digest(questions: Sequence[Question], skills: Sequence[Skills]) -> str:
    """Which evidence this is: the questions, their answers, and the skills that they were tagged with."""
    digest = hashlib.sha256()
    for question, needed in zip(questions, skills, strict=True):
        digest.update(repr((question.question, question.answer, question.scorer)).encode())
        digest.update(repr(([match.skill for match in needed.matches], needed.facets)).encode())
    return digest.hexdigest()[:16]


def tag_questions(assembly: Assembly, questions: Sequence[Question]) -> list[Skills]:
    """The skills of validation questions, as the pool's tagger names them."""
    return assembly.tagger.tag([as_query(question, assembly.pool.sampling) for question in questions])


def profile_pool(
    assembly: Assembly,
    questions: Sequence[Question],
    skills: Sequence[Skills],
    known: Profiles,
    saved: Callable[[Profiles], None],
    watch: Watch = Watch(),  # noqa: B008  (frozen)
    add: bool = False,
) -> Profiles:
    """Ask every expert whose present weights `known` has no record of on these questions; `saved` is given each state.

    With `add` the answers are added to what else is on record of the same weights, otherwise they replace it. An
    interruption loses the answers of one expert at most: pass what was saved as `known` to go on.
    """
    pool, digest = assembly.pool, evidence_digest(questions, skills)
    every_topic = pool.routing.recruiter != "symmoe"
    profiles = replace(known, parents={**known.parents, **parents_of(skills)})
    for name in pool.names:
        weights = expert_fingerprint(pool, name)
        record = profiles.experts.get(name)
        if record is not None and record.fingerprint == weights and digest in record.digests:
            continue
        matrix = run_matrix(assembly.executor, [name], assembly.models, questions, pool.sampling, watch)
        earned = [float(right) for right in matrix.right[name]]
        tokens = matrix.spent[name] / len(questions)
        today = date.today().isoformat()
        fresh = build_profile(name, skills, earned, LEAST_QUESTIONS, every_topic, tokens, weights, today, digest)
        alone = Profiles({name: fresh}, profiles.parents)
        kept = profiles if add else Profiles({e: p for e, p in profiles.experts.items() if e != name}, profiles.parents)
        profiles = merge(kept, alone)
        saved(profiles)
    return complete(profiles, pool.names)
