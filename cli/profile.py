"""`symmoe profile`: build, show, compare, merge and store the records of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

app = typer.Typer(help="Build, show, compare, merge and store the records of experts.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE.json", help="A profile file.")]


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Write the profiles to this file.")],
    pool: options.Pool = "starter",
    suite: options.Validation = None,
    per_family: options.PerFamily = 15,
    add: Annotated[
        bool, typer.Option("--add", help="Add to the answers recorded in FILE.json instead of replacing them.")
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Ask experts validation questions and record, by skill, what they got right and wrong.

    Without --suite, 350 questions that come with symmoe are asked; they cover every general skill.

    With the same questions as before, only experts that are new or whose weights changed are asked. After an
    interruption, run it again to continue. A pool of recorded answers is judged by them, unless --suite is given, and
    nothing is generated.
    """
    from symmoe.build import Assembly, build_kept_embedder
    from symmoe.config import read_pool
    from symmoe.profiles.building import profile_pool, profile_records, tag_questions
    from symmoe.questions.suites import suite_at
    from symmoe.routing.profile_files import write_profiles
    from symmoe.routing.profiles import merge

    from .render import show_result, watching

    config = read_pool(pool).without_profiles()
    assembly = Assembly(config, embedder=build_kept_embedder(config))
    recorded = config.engine.kind == "recorded" and suite is None
    questions = assembly.records.known() if recorded else suite_at(suite, per_family, "profile", seed, everyday=True)
    partial = out.with_name(f"{out.name}.partial")
    known, about = _interrupted(partial) or _existing(out)
    options.fetch_and_verify(config)
    skills = tag_questions(assembly, questions)
    general = f"everyday questions and {per_family} of each family, profile split, seed {seed}"
    source = suite.name if suite else "records" if recorded else general
    sources = _extended(about.get("sources", []), source)
    with watching("asking everyone") as watch:
        if recorded:
            fresh = profile_records(assembly, questions, skills, seed, watch)
            built = merge(known, fresh) if add else fresh
        else:
            built = profile_pool(
                assembly,
                questions,
                skills,
                known,
                lambda state: write_profiles(partial, state, {"sources": sources}),
                watch,
                add,
            )
    facts = {
        "pool": config.name,
        "questions": int(max(p.overall.asked for p in built.experts.values())),
        "sources": sources if any(len(p.digests) > 1 for p in built.experts.values()) else [source],
    }
    write_profiles(out, built, facts)
    partial.unlink(missing_ok=True)
    show_result(
        json,
        facts | {"out": str(out), "right": {n: p.overall.right for n, p in built.experts.items()}},
        _table(f"Profiles in {out}", built, []),
    )


@app.command("show")
def show_profiles(
    pool: options.Pool = "starter",
    expert: Annotated[str | None, typer.Option("--expert", help="Show only this expert, by skill.")] = None,
    json: options.Json = False,
) -> None:
    """Show the records of a pool's experts, and which are stale (the weights changed since)."""
    from dataclasses import replace

    from symmoe.build import Assembly, stale_experts
    from symmoe.config import read_pool
    from symmoe.types import to_json

    from .render import show, show_json

    config = read_pool(pool)
    profiles = Assembly(config).profiles()
    stale = stale_experts(config, profiles)
    if expert is not None:
        named = config.expert(expert).name
        skills = _skill_rows(profiles, named)
        if json:
            show_json(
                to_json(replace(profiles.experts[named], earned={})) | {"stale": named in stale, "posterior": skills}
            )
        else:
            show(_skill_table(named, skills))
        return
    if json:
        show_json(
            {name: to_json(replace(p, earned={})) | {"stale": name in stale} for name, p in profiles.experts.items()}
        )
        return
    show(_table("Profiles", profiles, stale))


@app.command("diff")
def diff(first: File, second: File, json: options.Json = False) -> None:
    """Show the skills on which two profile files differ, by expert, the largest change first."""
    from symmoe.routing.profile_files import read_profiles
    from symmoe.routing.profiles import difference
    from symmoe.types import ExpertProfile, Tally, to_json

    from .render import show, show_json, table

    old, new = read_profiles(first), read_profiles(second)
    nothing = Tally(0, 0)
    changes: dict[str, Any] = {}
    for name in dict.fromkeys([*old.experts, *new.experts]):
        pair = (old.experts.get(name, ExpertProfile(name, {}, nothing)), new.experts.get(name))
        changes[name] = difference(pair[0], pair[1] or ExpertProfile(name, {}, nothing))
    if json:
        rows = {
            name: {skill: {"first": to_json(a), "second": to_json(b)} for skill, (a, b) in skills.items()}
            for name, skills in changes.items()
        }
        show_json({"changed": rows, "only_first": _only(old, new), "only_second": _only(new, old)})
        return
    lines = [
        (name, skill, _fraction(a), _fraction(b))
        for name, skills in changes.items()
        for skill, (a, b) in skills.items()
    ]
    show(table("Changed", ("expert", "skill", first.name, second.name), lines, right=(2, 3)))


@app.command("merge")
def merge_files(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.json…", help="Profile files; later ones take precedence.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.json", help="Write the merged profiles to this file.")
    ],
    only: Annotated[list[str] | None, typer.Option("--only", help="Keep only this expert; repeatable.")] = None,
    json: options.Json = False,
) -> None:
    """Add up the records in profile files. If an expert's weights differ, the record of the later file is taken."""
    from dataclasses import replace

    from symmoe.errors import RequestError
    from symmoe.routing.profile_files import about_profiles, read_profiles, write_profiles
    from symmoe.routing.profiles import merge, shared_evidence
    from symmoe.types import Profiles

    from .render import show_result

    merged, sources = Profiles({}), list[str]()
    for path in files:
        read = read_profiles(path)
        repeated = shared_evidence(merged, read)
        if repeated:
            message = f"{path}: an earlier file has the same answers of {', '.join(repeated)}"
            raise RequestError(
                message, code="same_evidence", hint="leave the file out, or keep other experts with --only"
            )
        merged = merge(merged, read)
        sources = _extended(sources, *about_profiles(path).get("sources", [path.name]))
    asked = [int(p.overall.asked) for p in merged.experts.values()]
    facts = {"questions": max(asked, default=0), "sources": sources}
    missing = sorted(set(only or ()) - set(merged.experts))
    if missing:
        raise RequestError(f"no file has a record of {', '.join(missing)}", code="unknown_expert")
    kept = {name: profile for name, profile in merged.experts.items() if not only or name in only}
    write_profiles(out, replace(merged, experts=kept), facts)
    show_result(
        json,
        facts | {"out": str(out), "experts": list(kept)},
        f"wrote {out}: {len(kept)} experts from {len(files)} files",
    )


@app.command("push")
def push(
    file: File,
    name: Annotated[str, typer.Option("--name", help="The name of the profiles in the store.")],
    json: options.Json = False,
) -> None:
    """Copy a profile file into the store, for pool files with `profiles: store:NAME`. The last 20 versions are kept."""
    from symmoe.routing.profile_files import about_profiles, as_document, read_profiles
    from symmoe.routing.profile_store import push_profiles
    from symmoe.store import open_store

    from .render import show_result

    version = push_profiles(open_store(), name, as_document(read_profiles(file), about_profiles(file)))
    show_result(json, {"name": name, "version": version}, f"profiles: store:{name} (version {version})")


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="The name in the store.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Write the profiles to this file.")],
    json: options.Json = False,
) -> None:
    """Write the newest version of profiles in the store to a file."""
    from symmoe.routing.profile_files import parse_profiles, write_profiles
    from symmoe.routing.profile_store import pull_document
    from symmoe.store import open_store

    from .render import show_result

    document = pull_document(open_store(), name)
    profiles = parse_profiles(document, f"store:{name}")
    write_profiles(out, profiles, document.get("about", {}))
    show_result(
        json,
        {"name": name, "out": str(out), "experts": list(profiles.experts)},
        f"wrote {out}: {len(profiles.experts)} experts",
    )


def _existing(path: Path) -> tuple[Any, dict[str, Any]]:
    from symmoe.routing.profile_files import about_profiles, read_profiles
    from symmoe.types import Profiles

    return (read_profiles(path), about_profiles(path)) if path.exists() else (Profiles({}), {})


def _interrupted(partial: Path) -> tuple[Any, dict[str, Any]] | None:
    """The profiles of an interrupted build; None if there are none or they cannot be read."""
    from symmoe.errors import PoolError

    try:
        return _existing(partial) if partial.exists() else None
    except PoolError:
        return None


def _extended(sources: list[str], *more: str) -> list[str]:
    return list(dict.fromkeys([*sources, *more]))


def _only(first: Any, second: Any) -> list[str]:
    return sorted(set(first.experts) - set(second.experts))


def _table(title: str, profiles: Any, stale: list[str]) -> Any:
    from .render import percent, table

    rows = [
        (
            name,
            f"{p.overall.asked:g}",
            percent(p.overall.right / p.overall.asked) if p.overall.asked else "",
            f"{p.tokens:.0f}" if p.tokens else "",
            "stale" if name in stale else p.date,
            _best(p.skills),
        )
        for name, p in profiles.experts.items()
    ]
    return table(title, ("expert", "asked", "right %", "tokens", "date", "best topics"), rows, right=(1, 2, 3))


def _best(skills: Any) -> str:
    topics = {name: tally for name, tally in skills.items() if ":" not in name and tally.right > tally.wrong}
    best = sorted(topics.items(), key=lambda item: -item[1].right / item[1].asked)[:3]
    return ", ".join(f"{name} {_fraction(tally)}" for name, tally in best)


def _fraction(tally: Any) -> str:
    return f"{tally.right:g}/{tally.asked:g}"


def _skill_rows(profiles: Any, expert: str) -> list[dict[str, Any]]:
    from symmoe.routing.tallies import interval, posterior_of, tallies_of

    tallies = tallies_of(profiles)
    posterior = posterior_of(tallies)
    column = tallies.experts.index(expert)
    rows = []
    for skill, tally in profiles.experts[expert].skills.items():
        row = posterior.rows[skill]
        mean = float(posterior.mean[row, column])
        low, high = interval(mean, float(tallies.asked[row, column] + posterior.worth[row]))
        facts = {"right": tally.right, "wrong": tally.wrong, "parent": profiles.parents.get(skill, "")}
        rows.append({"skill": skill, "mean": mean, "low": low, "high": high} | facts)
    return sorted(rows, key=lambda row: -row["mean"])


def _skill_table(expert: str, rows: list[dict[str, Any]]) -> Any:
    from .render import percent, table

    lines = []
    for r in rows:
        asked, interval = r["right"] + r["wrong"], f"{percent(r['low'])}–{percent(r['high'])}"
        lines.append((r["skill"], f"{r['right']:g}/{asked:g}", percent(r["mean"]), interval, r["parent"]))
    columns = ("skill", "right", "expected %", "95 %", "prior from")
    return table(f"The record of {expert}", columns, lines, right=(1, 2, 3))
