from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.routing.profiles import build_profile, read_profiles, write_profiles
from symmoe.types import ExpertProfile
from tests.fakes import skills

ASKED = [skills("1", "sums"), skills("2", "sums", "sorting"), skills("3", "sorting"), skills("4"), skills("5", "sums")]


def test_each_right_answer_adds_one_to_its_skills_and_each_wrong_one_takes_one() -> None:
    # sums: +1 (1), -1 (2), +1 (5); sorting: -1 (2), -1 (3); question 4 needs no skill
    profile = build_profile("adder", ASKED, [True, False, False, True, True])
    assert profile == ExpertProfile("adder", {"sorting": -2, "sums": 1}, right=3, asked=5)


def test_a_skill_that_too_few_questions_need_is_left_out() -> None:
    profile = build_profile("adder", ASKED, [True, False, False, True, True], least_questions=3)
    assert profile == ExpertProfile("adder", {"sums": 1}, right=3, asked=5)


def test_more_answers_than_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        build_profile("adder", [skills("1", "sums")], [True, True])


def test_written_profiles_read_back_equal(tmp_path: Path) -> None:
    kept = [ExpertProfile("a", {"sums": -2, "größer": 3}, 1, 4), ExpertProfile("b", {}, 0, 4)]
    write_profiles(tmp_path / "new" / "p.json", kept, {"pool": "p"})
    assert read_profiles(tmp_path / "new" / "p.json", ["a", "b"]) == {p.expert: p for p in kept}


def test_experts_come_in_the_order_asked_and_one_without_a_profile_has_an_empty_record(tmp_path: Path) -> None:
    write_profiles(tmp_path / "p.json", [ExpertProfile("a", {"sums": 1}, 1, 1), ExpertProfile("left", {}, 1, 1)], {})
    found = read_profiles(tmp_path / "p.json", ["new", "a"])
    assert list(found) == ["new", "a"]
    assert found["new"] == ExpertProfile("new", {}, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "experts": []}',
        '{"format": 1, "experts": {"a": {}}}',
        '{"format": 1, "experts": {"a": {"scores": {"s": "many"}, "right": 1, "asked": 1}}}',
        '{"format": 1, "experts": {"a": {"scores": [], "right": 1, "asked": 1}}}',
    ],
)
def test_a_file_that_is_no_profile_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PoolError) as caught:
        read_profiles(path, ["a"])
    assert str(caught.value).startswith(f"profiles {path}: not a profile file")
    assert caught.value.hint == "build them again"


def test_profiles_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"format": 2, "experts": {}}), encoding="utf-8")
    with pytest.raises(PoolError, match="format 2 is not 1"):
        read_profiles(tmp_path / "p.json", ["a"])


def test_a_missing_profile_file_is_refused_with_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read") as caught:
        read_profiles(tmp_path / "none.json", ["a"])
    assert "symmoe profile build" in (caught.value.hint or "")


def test_a_pool_without_profiles_says_so_when_it_is_asked_for_a_recruiter() -> None:
    from symmoe.build import Assembly

    with pytest.raises(PoolError, match="has no profiles"):
        _ = Assembly(read_pool("symbolic-moe-16")).recruiter
