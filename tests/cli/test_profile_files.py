"""`symmoe profile diff` and `merge`, and profile files that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Symmoe

Row = dict[str, Any]


def row(right: float, wrong: float, fingerprint: str = "f", **skills: tuple[float, float]) -> Row:
    return {"overall": [right, wrong], "fingerprint": fingerprint, "skills": skills or {"sums": [right, wrong]}}


def written(path: Path, digest: str = "", **experts: Row) -> Path:
    for record in experts.values():
        record["digests"] = [digest] if digest else []
    document = {"format": 2, "about": {}, "parents": {"sums": "", "spanish": ""}, "experts": experts}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_diff_tells_the_skills_that_changed_the_largest_change_first(symmoe_command: Symmoe, tmp_path: Path) -> None:
    first = written(tmp_path / "a.json", one=row(5, 5, sums=(5, 5), spanish=(2, 2)), two=row(1, 1))
    second = written(tmp_path / "b.json", one=row(9, 6, sums=(5, 6), spanish=(6, 0)), two=row(1, 1))
    found = symmoe_command("profile", "diff", first, second, "--json").json
    assert list(found["changed"]["one"]) == ["spanish", "sums"]
    assert found["changed"]["one"]["sums"] == {
        "first": {"right": 5, "wrong": 5},
        "second": {"right": 5, "wrong": 6},
    }
    assert not found["changed"].get("two")
    said = symmoe_command("profile", "diff", first, second)
    assert said.code == 0
    assert said.out.index("spanish") < said.out.index("sums")
    assert "5/11" in said.out


def test_diff_names_the_experts_that_only_one_file_knows(symmoe_command: Symmoe, tmp_path: Path) -> None:
    first = written(tmp_path / "a.json", one=row(1, 1), two=row(1, 1))
    second = written(tmp_path / "b.json", two=row(1, 1), three=row(2, 1))
    found = symmoe_command("profile", "diff", first, second, "--json").json
    assert (found["only_first"], found["only_second"]) == (["one"], ["three"])
    assert found["changed"]["three"]["sums"] == {"first": {"right": 0, "wrong": 0}, "second": {"right": 2, "wrong": 1}}


def test_diff_of_a_file_from_itself_is_nothing(symmoe_command: Symmoe, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", one=row(1, 1))
    found = symmoe_command("profile", "diff", path, path, "--json").json
    assert not any(found["changed"].values())
    assert "sums" not in symmoe_command("profile", "diff", path, path).out


def test_merge_adds_up_what_was_counted_on_other_questions(symmoe_command: Symmoe, tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", "d1", one=row(3, 1), two=row(2, 2)),
        written(tmp_path / "b.json", "d2", one=row(2, 2, sums=(1, 1), spanish=(1, 1)), three=row(1, 0)),
        written(tmp_path / "c.json", "d3", one=row(1.5, 0.5)),
    ]
    out = tmp_path / "merged.json"
    said = symmoe_command("profile", "merge", *files, "-o", out, "--json")
    assert said.code == 0
    assert said.json["experts"] == ["one", "two", "three"]
    found = json.loads(out.read_text())
    assert found["about"] == {"questions": 10, "sources": ["a.json", "b.json", "c.json"]}
    assert found["experts"]["one"]["digests"] == ["d1", "d2", "d3"]
    assert found["experts"]["one"]["overall"] == [6.5, 3.5]
    assert found["experts"]["one"]["skills"] == {"spanish": [1, 1], "sums": [5.5, 2.5]}
    assert found["experts"]["two"]["overall"] == [2, 2]
    assert found["parents"] == {"sums": "", "spanish": ""}


def test_merge_weighs_tokens_by_how_much_was_asked(symmoe_command: Symmoe, tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", "d1", one=row(30, 0) | {"tokens": 10}),
        written(tmp_path / "b.json", "d2", one=row(10, 0) | {"tokens": 50}),
    ]
    assert symmoe_command("profile", "merge", *files, "-o", tmp_path / "m.json").code == 0
    assert json.loads((tmp_path / "m.json").read_text())["experts"]["one"]["tokens"] == 20.0


def test_merge_takes_the_later_record_where_the_weights_differ(symmoe_command: Symmoe, tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", "d1", one=row(3, 1, "old")),
        written(tmp_path / "b.json", "d2", one=row(1, 1, "new")),
    ]
    assert symmoe_command("profile", "merge", *files, "-o", tmp_path / "m.json").code == 0
    found = json.loads((tmp_path / "m.json").read_text())["experts"]["one"]
    assert (found["overall"], found["fingerprint"]) == ([1, 1], "new")


def test_merge_refuses_the_same_evidence_twice_and_writes_nothing(symmoe_command: Symmoe, tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", "d1", one=row(3, 1)),
        written(tmp_path / "b.json", "d2", one=row(3, 1)),
        written(tmp_path / "c.json", "d1", one=row(3, 1)),
    ]
    said = symmoe_command("profile", "merge", *files, "-o", tmp_path / "m.json")
    assert said.code != 0
    (error,) = said.errors
    assert "c.json" in error
    assert "one" in error
    assert not (tmp_path / "m.json").exists()


def test_merge_keeps_only_the_experts_that_are_named(symmoe_command: Symmoe, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", "d1", one=row(3, 1), two=row(1, 1), three=row(2, 2))
    said = symmoe_command("profile", "merge", path, "-o", path, "--only", "three", "--only", "one", "--json")
    assert said.json["experts"] == ["one", "three"]
    assert list(json.loads(path.read_text())["experts"]) == ["one", "three"]


def test_merge_names_an_expert_that_no_file_knows_and_writes_nothing(symmoe_command: Symmoe, tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", "d1", one=row(3, 1))
    said = symmoe_command("profile", "merge", path, "-o", tmp_path / "m.json", "--only", "two")
    assert said.code != 0
    assert "two" in said.errors[0]
    assert not (tmp_path / "m.json").exists()


def test_merge_puts_experts_that_were_asked_the_same_questions_apart_into_one_file(
    symmoe_command: Symmoe, tmp_path: Path
) -> None:
    files = [written(tmp_path / "a.json", "d1", one=row(3, 1)), written(tmp_path / "b.json", "d1", two=row(2, 2))]
    assert symmoe_command("profile", "merge", *files, "-o", tmp_path / "m.json").code == 0
    assert list(json.loads((tmp_path / "m.json").read_text())["experts"]) == ["one", "two"]


@pytest.mark.parametrize("about", [{"questions": "many"}, {"sources": 1}, {"pool": None}])
def test_a_file_that_says_odd_things_of_itself_is_no_fault_of_the_program(
    symmoe_command: Symmoe, tmp_path: Path, about: dict[str, object]
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"format": 2, "about": about, "experts": {}}), encoding="utf-8")
    said = symmoe_command("profile", "merge", path, path, "-o", tmp_path / "m.json")
    assert (said.code, len(said.errors)) == (2, 1)


def test_what_merge_kept_for_a_smaller_pool_can_be_used_there(
    symmoe_command: Symmoe, pool: Path, tmp_path: Path
) -> None:
    records = pool.with_name("profiles.json")
    document = json.loads(records.read_text())
    document["experts"]["stranger"] = document["experts"]["adder"]
    records.write_text(json.dumps(document), encoding="utf-8")
    said = symmoe_command("route", "sums", "--pool", pool)
    assert said.code == 2
    assert "stranger: not in the pool" in said.errors[0]
    assert "--only" in said.err
    names = ("adder", "speaker", "sorter")
    only = [word for name in names for word in ("--only", name)]
    assert symmoe_command("profile", "merge", records, "-o", records, *only).code == 0
    assert symmoe_command("route", "sums", "--pool", pool).code == 0


UNUSABLE = [
    pytest.param("", "not JSON", id="empty"),
    pytest.param('{"format": 2, "exp', "not JSON", id="cut short"),
    pytest.param(b"\xff\xfe\x00", "not JSON", id="not text"),
    pytest.param("[]", "file: ", id="a list"),
    pytest.param('{"experts": {}}', "format: Field required", id="no format"),
    pytest.param('{"format": 1, "experts": {}}', "format 1 is not 2", id="an older format"),
    pytest.param('{"format": 3, "experts": {}, "more": 1}', "format 3 is not 2", id="a newer format"),
    pytest.param('{"format": 2}', "experts: Field required", id="no experts"),
    pytest.param('{"format": 2, "experts": {}, "more": 1}', "more: ", id="an unknown key"),
    pytest.param('{"format": 2, "experts": {"adder": {"skills": {}}}}', "experts.adder.overall", id="no counts"),
    pytest.param(
        '{"format": 2, "experts": {"adder": {"overall": [1, -1], "skills": {}}}}',
        "experts.adder.overall.1",
        id="a negative count",
    ),
    pytest.param(
        '{"format": 2, "experts": {"adder": {"overall": [1, NaN], "skills": {}}}}',
        "experts.adder.overall.1",
        id="no number",
    ),
]


@pytest.mark.parametrize(("content", "says"), UNUSABLE)
@pytest.mark.parametrize(
    "words",
    [
        "route sums --pool {pool}",
        "ask sums --pool {pool}",
        "pool check {pool}",
        "profile show --pool {pool}",
        "profile diff {file} {file}",
        "profile merge {file} -o {pool}.json",
        "profile build --pool {pool} --per-family 1 --add -o {file}",
    ],
)
def test_a_profile_file_that_cannot_be_used_is_one_line_of_error_that_names_it(
    symmoe_command: Symmoe, pool: Path, words: str, content: str | bytes, says: str
) -> None:
    path = pool.with_name("profiles.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = symmoe_command(*words.format(pool=pool, file=path).split())
    assert (said.code, said.out) == (2, "")
    (error,) = said.errors
    assert str(path) in error
    assert says in error
    assert " hint: " in said.err


@pytest.mark.parametrize("words", ["route sums", "ask sums", "pool check", "profile show"])
def test_a_record_of_an_expert_unknown_to_the_pool_is_refused_by_name(
    symmoe_command: Symmoe, pool: Path, words: str
) -> None:
    written(pool.with_name("profiles.json"), poet=row(1, 1), adder=row(1, 1))
    said = symmoe_command(*words.split(), *(() if words == "pool check" else ("--pool",)), pool)
    assert said.code == 2
    (error,) = said.errors
    assert error.endswith("poet: not in the pool")


@pytest.mark.parametrize("content", ["", "\n\n", "{", '{"id": "1"}', None])
def test_a_suite_that_cannot_be_used_is_one_line_of_error_and_nothing_is_written(
    symmoe_command: Symmoe, pool: Path, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "suite.jsonl").write_text(content, encoding="utf-8")
    words = ("profile", "build", "--pool", pool, "--suite", tmp_path / "suite.jsonl", "-o", tmp_path / "out.json")
    said = symmoe_command(*words)
    assert (said.code, said.out) == (2, "")
    (error,) = said.errors
    assert "suite.jsonl" in error
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "out.json.partial").exists()
