"""Experts' records: how they are kept, built and read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from symmoe.errors import PoolError
from symmoe.protocols import Profiles
from symmoe.types import ExpertProfile, Skills

FORMAT = 1


def build_profile(
    expert: str, skills: Sequence[Skills], right: Sequence[bool], least_questions: int = 1
) -> ExpertProfile:
    """+1 for each skill of a question answered rightly, −1 for each of one answered wrongly (Symbolic-MoE §3.1).

    A skill that fewer than `least_questions` questions need is left out: a stray match is no evidence.
    """
    asked = Counter(match.skill for needed in skills for match in needed.matches)
    scores = {skill: 0 for skill, times in sorted(asked.items()) if times >= least_questions}
    for needed, correct in zip(skills, right, strict=True):
        for match in needed.matches:
            if match.skill in scores:
                scores[match.skill] += 1 if correct else -1
    return ExpertProfile(expert, scores, sum(right), len(right))


def write_profiles(path: Path, profiles: Iterable[ExpertProfile], about: Mapping[str, object]) -> None:
    """Write profiles as readable JSON; `about` says what they were built from."""
    experts = {p.expert: {"right": p.right, "asked": p.asked, "scores": dict(p.scores)} for p in profiles}
    document = {"format": FORMAT, "about": dict(about), "experts": experts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_profiles(path: Path, experts: Sequence[str]) -> Profiles:
    """Read the profiles of `experts`; an expert without one has an empty record. `PoolError` names what is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise PoolError(f"profiles {path}: format {document['format']} is not {FORMAT}", hint="build them again")
        kept = {
            name: ExpertProfile(
                name, {str(s): int(n) for s, n in row["scores"].items()}, int(row["right"]), int(row["asked"])
            )
            for name, row in document["experts"].items()
        }
    except OSError as error:
        raise PoolError(
            f"profiles {path}: cannot be read ({error.strerror})", hint="build them with `symmoe profile build`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PoolError(f"profiles {path}: not a profile file ({error!r})", hint="build them again") from error
    return {name: kept.get(name, ExpertProfile(name, {}, 0, 0)) for name in experts}
