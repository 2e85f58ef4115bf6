"""Experts' records: how they are built, merged and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from symmoe.routing.competence import quantised
from symmoe.routing.facets import is_format
from symmoe.types import ExpertProfile, Profiles, RecordedQuestion, Skills, Tally

SHARED = 0.8
"""A facet that this fraction of a topic's questions shows is the topic's parent."""


def build_profile(
    expert: str,
    skills: Sequence[Skills],
    earned: Sequence[float],
    least_questions: int = 1,
    every_topic: bool = False,
    tokens: float = 0.0,
    fingerprint: str = "",
    date: str = "",
    digest: str = "",
    idents: Sequence[str] = (),
) -> ExpertProfile:
    """Count what an expert earned, 0..1 for each question, on the question's nearest topic and on its facets.

    With `every_topic` it counts on every topic that the question matches, as in Symbolic-MoE §3.1. A skill with fewer
    than `least_questions` questions is left out, since a stray match is no evidence. If `idents` name the questions,
    what was earned on each is kept as well.
    """
    counts: dict[str, int] = {}
    right: dict[str, float] = {}
    for needed, score in zip(skills, earned, strict=True):
        for name in _counted(needed, every_topic):
            counts[name] = counts.get(name, 0) + 1
            right[name] = right.get(name, 0.0) + score
    names = sorted(name for name, times in counts.items() if times >= least_questions)
    tallies = {name: _tally(right[name], counts[name]) for name in names}
    return ExpertProfile(
        expert,
        tallies,
        _tally(sum(earned), len(earned)),
        tokens,
        fingerprint,
        date,
        (digest,) if digest else (),
        earned=dict(zip(idents, earned, strict=True)) if idents else {},
    )


def identity(question: str) -> str:
    """The identity of a question in records: a digest of its text."""
    return sha256(question.encode("utf-8", "replace")).hexdigest()[:16]


def recorded(texts: Sequence[str], groups: Sequence[str], skills: Sequence[Skills]) -> dict[str, RecordedQuestion]:
    """Questions in the form that records keep, by identity; those without an embedding are left out."""
    return {
        identity(text): RecordedQuestion(
            group,
            next((facet for facet in needed.facets if is_format(facet)), ""),
            quantised(np.frombuffer(needed.vector, dtype=np.float32)),
        )
        for text, group, needed in zip(texts, groups, skills, strict=True)
        if needed.vector
    }


def parents_of(skills: Iterable[Skills]) -> dict[str, str]:
    """The most specific facet that most questions of each topic share, `""` where they share none."""
    seen: dict[str, Counter[str]] = {}
    for needed in skills:
        for match in needed.matches:
            seen.setdefault(match.skill, Counter()).update(needed.facets[:1])
    return {topic: _shared(facets) for topic, facets in sorted(seen.items())}


def merge(first: Profiles, second: Profiles) -> Profiles:
    """The sum of both records. Where an expert's weights differ, the second record replaces the first.

    If the two come from different embedders, whose vectors cannot be compared, only the second's questions are kept.
    """
    experts = dict(first.experts)
    for name, profile in second.experts.items():
        known = experts.get(name)
        same = known is not None and known.fingerprint == profile.fingerprint
        experts[name] = _added(known, profile) if known is not None and same else profile
    same = first.embedder in ("", second.embedder) or not second.questions
    verifier = second.verifier or first.verifier
    questions = {**(first.questions if same else {}), **second.questions}
    embedder = second.embedder if second.questions else first.embedder
    return Profiles(experts, {**first.parents, **second.parents}, second.belief, questions, embedder, verifier)


def shared_evidence(first: Profiles, second: Profiles) -> list[str]:
    """The experts for whom both records count the same questions, so that merging would count them twice."""
    both = [(e, first.experts[e], profile) for e, profile in second.experts.items() if e in first.experts]
    return [e for e, a, b in both if a.fingerprint == b.fingerprint and set(a.digests) & set(b.digests)]


def complete(profiles: Profiles, experts: Sequence[str]) -> Profiles:
    """The profiles of exactly these experts, in their order; one without a record has an empty one."""
    empty = Tally(0, 0)
    return replace(profiles, experts={e: profiles.experts.get(e, ExpertProfile(e, {}, empty)) for e in experts})


def difference(first: ExpertProfile, second: ExpertProfile) -> dict[str, tuple[Tally, Tally]]:
    """The skills on which two records of an expert differ, the largest change of accuracy first."""
    empty = Tally(0, 0)
    pairs = {s: (first.skills.get(s, empty), second.skills.get(s, empty)) for s in (*first.skills, *second.skills)}
    changed = {skill: pair for skill, pair in pairs.items() if pair[0] != pair[1]}
    return dict(sorted(changed.items(), key=lambda item: -abs(_accuracy(item[1][1]) - _accuracy(item[1][0]))))


def _counted(skills: Skills, every_topic: bool) -> tuple[str, ...]:
    matches = skills.matches if every_topic else skills.matches[:1]
    return (*(match.skill for match in matches), *skills.facets)


def _added(first: ExpertProfile, second: ExpertProfile) -> ExpertProfile:
    empty = Tally(0, 0)
    names = sorted({*first.skills, *second.skills})
    timed = [each for each in (first, second) if each.tokens]
    asked = sum(each.overall.asked for each in timed)
    spent = sum(each.tokens * each.overall.asked for each in timed)
    return replace(
        second,
        skills={name: _sum(first.skills.get(name, empty), second.skills.get(name, empty)) for name in names},
        overall=_sum(first.overall, second.overall),
        tokens=spent / asked if asked else 0.0,
        digests=(*first.digests, *second.digests),
        borrowed=second.borrowed or first.borrowed,
        earned={**first.earned, **second.earned},
        aggregation=second.aggregation or first.aggregation,
    )


def _sum(first: Tally, second: Tally) -> Tally:
    return Tally(round(first.right + second.right, 4), round(first.wrong + second.wrong, 4))


def _tally(right: float, asked: int) -> Tally:
    return Tally(round(right, 4), round(asked - right, 4))


def _accuracy(tally: Tally) -> float:
    return (tally.right + 0.5) / (tally.asked + 1)


def _shared(facets: Mapping[str, int]) -> str:
    if not facets:
        return ""
    facet = max(facets, key=lambda name: facets[name])
    return facet if facets[facet] >= SHARED * sum(facets.values()) else ""
