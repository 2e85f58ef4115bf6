"""Profiles as files: readable JSON with a format number, checked when read."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from math import isfinite, isnan
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.errors import PoolError
from symmoe.json_files import read_json
from symmoe.types import AnswerKind, Belief, ExpertProfile, Profiles, RecordedQuestion, Tally, Trees

FORMAT = 2
_COLUMNS: dict[str, Callable[[str], Any]] = {
    "roots": int, "feature": int, "threshold": float, "unknown_left": int, "left": int, "right": int, "value": float,
}  # fmt: skip
Count = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Pair = tuple[Count, Count]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overall: _Pair
    tokens: Count = 0.0
    fingerprint: str = ""
    date: str = ""
    digests: tuple[str, ...] = ()
    skills: dict[str, _Pair]
    borrowed: dict[str, _Pair] = {}
    aggregation: dict[AnswerKind, _Pair] = {}


class _Belief(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    overlap: Annotated[float, Field(ge=0, le=1)]
    corrections: tuple[tuple[Annotated[float, Field(ge=0)], float], ...] = ()


class _Trees(BaseModel):
    """Trees as columns of text: a list would take a line for each of thousands of nodes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    experts: tuple[str, ...]
    offset: float
    roots: str
    feature: str
    threshold: str
    unknown_left: str
    left: str
    right: str
    value: str


class _Questions(BaseModel):
    """Columns as text, since a list of thousands would take a line for each: `-` where an expert was not asked."""

    model_config = ConfigDict(extra="forbid")

    embedder: str
    groups: list[str]
    formats: list[str]
    ident: str
    group: str
    format: str
    vectors: str
    earned: dict[str, str]


class _About(BaseModel):
    model_config = ConfigDict(extra="allow")

    pool: str = ""
    questions: int = 0
    sources: list[str] = []


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    about: _About = _About()
    parents: dict[Annotated[str, Field(pattern=r"^[^:]*$")], Annotated[str, Field(pattern=r"^$|:")]] = {}
    belief: _Belief | None = None
    verifier: _Trees | None = None
    experts: dict[str, _Record]
    questions: _Questions | None = None


def write_profiles(path: Path, profiles: Profiles, about: Mapping[str, object]) -> None:
    """Write profiles atomically; `about` describes what they were built from. Counts are `[right, wrong]`."""
    text = _one_line_pairs(json.dumps(as_document(profiles, about), indent=1, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.{os.getpid()}.new")
    whole.write_text(text + "\n", encoding="utf-8")
    os.replace(whole, path)


def as_document(profiles: Profiles, about: Mapping[str, object]) -> dict[str, Any]:
    """Profiles as a JSON document, which `parse_profiles` reads back equal."""
    return {
        "format": FORMAT,
        "about": dict(about),
        "parents": dict(profiles.parents),
        **({} if profiles.belief == Belief() else {"belief": asdict(profiles.belief)}),
        **({} if profiles.verifier is None else {"verifier": _tree_columns(profiles.verifier)}),
        "experts": {name: _row(profile) for name, profile in profiles.experts.items()},
        **_columns(profiles),
    }


def read_profiles(path: Path, pool: Collection[str] | None = None) -> Profiles:
    """Read profiles. Raises `PoolError` for a malformed file, and for an expert outside `pool`, if that is given."""
    document = read_json(path, PoolError, "build the profiles with `symmoe profile build`")
    return parse_profiles(document, str(path), pool)


def parse_profiles(raw: Any, where: str, pool: Collection[str] | None = None) -> Profiles:
    """Profiles from a JSON document. Raises `PoolError`, naming `where` as the place of the fault."""
    if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
        raise PoolError(
            f"profiles {where}: format {raw['format']} is not {FORMAT}",
            hint="remove it and build them again with `symmoe profile build`",
        )
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise PoolError(f"profiles {where}: {place}: {first['msg']}", hint="build them again") from error
    strangers = sorted(set(document.experts) - set(pool)) if pool is not None else []
    if strangers:
        raise PoolError(
            f"profiles {where}: {', '.join(strangers)}: not in the pool",
            hint="use the profiles of this pool, or `symmoe profile merge --only` to leave experts out",
        )
    belief = Belief(document.belief.overlap, document.belief.corrections) if document.belief else Belief()
    experts = {name: _profile(name, row) for name, row in document.experts.items()}
    part = "verifier"
    try:
        profiles = Profiles(experts, document.parents, belief, verifier=_trees(document.verifier))
        part = "questions"
        return profiles if document.questions is None else _with_questions(profiles, document.questions)
    except (ValueError, IndexError) as error:
        raise PoolError(f"profiles {where}: {part}: {error}", hint="build them again") from error


def about_profiles(path: Path) -> dict[str, Any]:
    """The description in a profile file of how it was built."""
    return dict(json.loads(path.read_text(encoding="utf-8")).get("about", {}))


def _row(profile: ExpertProfile) -> dict[str, Any]:
    def pairs(tallies: Mapping[Any, Tally]) -> dict[str, list[float]]:
        return {skill: [_plain(value) for value in asdict(tally).values()] for skill, tally in tallies.items()}

    row: dict[str, Any] = {
        "overall": [_plain(profile.overall.right), _plain(profile.overall.wrong)],
        "tokens": round(profile.tokens, 2),
        "fingerprint": profile.fingerprint,
        "date": profile.date,
        "digests": list(profile.digests),
        "skills": pairs(profile.skills),
    }
    optional: dict[str, Mapping[Any, Tally]] = {"borrowed": profile.borrowed, "aggregation": profile.aggregation}
    return row | {key: pairs(tallies) for key, tallies in optional.items() if tallies}


def _profile(name: str, row: _Record) -> ExpertProfile:
    skills = {skill: Tally(*pair) for skill, pair in row.skills.items()}
    borrowed = {skill: Tally(*pair) for skill, pair in row.borrowed.items()}
    aggregation = {kind: Tally(*pair) for kind, pair in row.aggregation.items()}
    overall = Tally(*row.overall)
    return ExpertProfile(
        name, skills, overall, row.tokens, row.fingerprint, row.date, row.digests, borrowed, aggregation
    )


def _columns(profiles: Profiles) -> dict[str, Any]:
    """The questions that somebody was asked, column by column."""
    asked = {ident for profile in profiles.experts.values() for ident in profile.earned}
    questions = {ident: each for ident, each in profiles.questions.items() if ident in asked}
    if not questions:
        return {}
    groups = {name: str(n) for n, name in enumerate(dict.fromkeys(each.group for each in questions.values()))}
    formats = {name: str(n) for n, name in enumerate(dict.fromkeys(each.format for each in questions.values()))}
    earned = {
        name: " ".join(f"{_plain(profile.earned[i])}" if i in profile.earned else "-" for i in questions)
        for name, profile in profiles.experts.items()
        if profile.earned
    }
    columns = _Questions(
        embedder=profiles.embedder,
        groups=list(groups),
        formats=list(formats),
        ident=" ".join(questions),
        group=" ".join(groups[each.group] for each in questions.values()),
        format=" ".join(formats[each.format] for each in questions.values()),
        vectors=b64encode(b"".join(each.vector for each in questions.values())).decode(),
        earned=earned,
    )
    return {"questions": columns.model_dump()}


def _with_questions(profiles: Profiles, columns: _Questions) -> Profiles:
    """Profiles with their recorded questions. Raises `ValueError` and `IndexError` where columns do not fit."""
    idents = columns.ident.split()
    vectors = b64decode(columns.vectors, validate=True)
    size, odd = divmod(len(vectors), max(len(idents), 1))
    if odd or not size:
        raise ValueError("vectors: not as many as there are questions")
    kinds = zip(idents, columns.group.split(), columns.format.split(), strict=True)
    questions = {
        ident: RecordedQuestion(
            columns.groups[int(group)], columns.formats[int(form)], vectors[n * size : (n + 1) * size]
        )
        for n, (ident, group, form) in enumerate(kinds)
    }
    experts = dict(profiles.experts)
    for name, row in columns.earned.items():
        if name not in experts:
            raise ValueError(f"earned: {name} has no record")
        scores = {i: float(score) for i, score in zip(idents, row.split(), strict=True) if score != "-"}
        if not all(0 <= score <= 1 for score in scores.values()):
            raise ValueError(f"earned: {name}: not between 0 and 1")
        experts[name] = replace(experts[name], earned=scores)
    return replace(profiles, experts=experts, questions=questions, embedder=columns.embedder)


def _tree_columns(trees: Trees) -> dict[str, Any]:
    columns = {name: " ".join(map(repr, value)) for name, value in asdict(trees).items() if name in _COLUMNS}
    return {"experts": list(trees.experts), "offset": trees.offset, **columns}


def _trees(columns: _Trees | None) -> Trees | None:
    """Trees as they were written. Raises `ValueError` where columns do not fit, or a node leads nowhere or back."""
    if columns is None:
        return None
    parsed = {name: [kind(each) for each in getattr(columns, name).split()] for name, kind in _COLUMNS.items()}
    roots, feature = parsed.pop("roots"), parsed["feature"]
    nodes = len(feature)
    if any(len(column) != nodes for column in parsed.values()):
        raise ValueError("columns of unequal length")
    inner = zip(range(nodes), feature, parsed["left"], parsed["right"], strict=True)
    if any(f >= 0 and not (n < a < nodes and n < b < nodes) for n, f, a, b in inner):
        raise ValueError("a node leads nowhere or back")
    if any(not 0 <= root < nodes for root in roots):
        raise ValueError("a tree begins nowhere")
    if any(map(isnan, parsed["threshold"])) or not all(map(isfinite, parsed["value"])):
        raise ValueError("a number that is none")
    return Trees(columns.experts, columns.offset, tuple(roots), **{name: tuple(each) for name, each in parsed.items()})


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else round(value, 4)


def _one_line_pairs(text: str) -> str:
    return re.sub(r"\[\n\s*([\d.]+),\n\s*([\d.]+)\n\s*\]", r"[\1, \2]", text)
