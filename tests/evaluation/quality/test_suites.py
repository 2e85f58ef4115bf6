from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.errors import SuiteError
from symmoe.evaluation.quality.suites import kept_apart, read_suites
from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import mixed_suite, split_of


def write(path: Path, *idents: str, bad: bool = False) -> Path:
    lines = [json.dumps({"id": i, "question": f"{i}?", "answer": "1", "scorer": "number"}) for i in idents]
    path.write_text("\n".join([*lines, *(['{"id": "x", "question": "?"}'] if bad else [])]), encoding="utf-8")
    return path


def test_suites_are_named_after_their_files(tmp_path: Path) -> None:
    suites = read_suites([write(tmp_path / "one.jsonl", "a", "b"), write(tmp_path / "two.jsonl", "c")])
    assert {name: [q.id for q in own] for name, own in suites.items()} == {"one": ["a", "b"], "two": ["c"]}


def test_a_bad_line_is_refused_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"one\.jsonl: line 3: answer"):
        read_suites([write(tmp_path / "one.jsonl", "a", "b", bad=True)])


def test_an_id_in_two_suites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"two\.jsonl: id 'b' stands in .*one\.jsonl too"):
        read_suites([write(tmp_path / "one.jsonl", "a", "b"), write(tmp_path / "two.jsonl", "b")])


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(SuiteError, match="another suite"):
        read_suites([write(tmp_path / "one.jsonl", "a"), write(tmp_path / "below" / "one.jsonl", "b")])


@pytest.fixture(scope="module")
def apart() -> dict[str, list[str]]:
    return {name: [q.question for q in own] for name, own in kept_apart(3, 2026).items()}


def test_without_files_the_questions_are_of_the_test_split_and_of_other_seeds(apart: dict[str, list[str]]) -> None:
    for questions in apart.values():
        assert {split_of(question) for question in questions} == {"test"}
    validation = {q.question for seed in (0, 1) for q in mixed_suite(list(FAMILIES), 3, "profile", seed)}
    assert validation.isdisjoint(apart["even"] + apart["uneven"])


def test_the_second_suite_mixes_the_families_otherwise_and_shares_no_question(apart: dict[str, list[str]]) -> None:
    assert len(set(apart["even"]) | set(apart["uneven"])) == len(apart["even"]) + len(apart["uneven"])
    families = kept_apart(3, 2026)
    counts = {name: sorted(sum(q.family == f for q in own) for f in FAMILIES) for name, own in families.items()}
    assert counts["even"] == [3] * len(FAMILIES)
    assert len(set(counts["uneven"])) > 1
    assert len({q.id for own in families.values() for q in own}) == sum(map(len, apart.values()))
