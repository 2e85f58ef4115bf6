from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import symmoe.build
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.questions.suites import write_suite
from symmoe.routing.profile_store import pull_document, push_profiles
from symmoe.store import open_store
from symmoe.types import Call, Generation

from ..conftest import SKILLS, echo_pool
from ..fakes import question
from .conftest import Said, Symmoe

NAMES = ["adder", "speaker", "sorter"]
OWN = {"adder": "sums", "speaker": "spanish", "sorter": "sorting"}


@dataclass
class Asked:
    """Which experts the engine was asked for; it is interrupted when it comes to `breaks_at`."""

    experts: list[str] = field(default_factory=list)
    breaks_at: str = ""
    interruption: type[BaseException] = EngineError

    def since(self) -> list[str]:
        """The experts asked for since this was last called, also those that were tried again, once."""
        found, self.experts = self.experts, []
        return list(dict.fromkeys(found))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    kept = Asked()

    class Engine(EchoEngine):
        def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
            kept.experts += dict.fromkeys(call.expert for call in calls)
            for found in super().generate(calls):
                if found[0].expert == kept.breaks_at:
                    raise kept.interruption("half-way")
                yield found

    monkeypatch.setattr(symmoe.build, "EchoEngine", Engine)
    return kept


@dataclass
class Records:
    """A profile file that is built from suites of three questions on each skill."""

    symmoe: Symmoe
    pool: Path
    out: Path

    def build(self, *words: object, first: int = 0, on: Sequence[str] = SKILLS) -> Said:
        suite = self.pool.with_name(f"suite{first}.jsonl")
        texts = [(expert, f"{skill} {first + n}") for expert, skill in OWN.items() if skill in on for n in range(3)]
        write_suite(suite, [question(text, f"{expert}: {text}", ident=text) for expert, text in texts])
        return self.symmoe("profile", "build", "--pool", self.pool, "--suite", suite, "-o", self.out, *words)

    def read(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8"))
        return document

    @property
    def partial(self) -> Path:
        return self.out.with_name(f"{self.out.name}.partial")

    def retrain(self, expert: str, content: str = "weights") -> None:
        folder = self.pool.with_name(expert)
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_text(content, encoding="utf-8")


@pytest.fixture
def records(symmoe_command: Symmoe, pool: Path) -> Records:
    """The file that is built is the one that the pool names; none is there at first."""
    out = pool.with_name("profiles.json")
    out.unlink()
    return Records(symmoe_command, pool, out)


def test_build_asks_everyone_and_records_who_was_right_on_what(records: Records, asked: Asked) -> None:
    said = records.build("--json")
    assert said.code == 0
    assert said.json["right"] == dict.fromkeys(NAMES, 3)
    assert asked.experts == NAMES
    found = records.read()
    assert (found["format"], found["about"]["questions"], found["about"]["sources"]) == (2, 9, ["suite0.jsonl"])
    for expert, skill in OWN.items():
        skills = {other: [3, 0] if other == skill else [0, 3] for other in OWN.values()}
        row = found["experts"][expert]
        assert (row["overall"], row["skills"], row["tokens"]) == ([3, 6], dict(sorted(skills.items())), 3.0)
    assert not records.partial.exists()


def test_build_asks_the_general_suite_where_none_is_named(records: Records, asked: Asked) -> None:
    said = records.symmoe("profile", "build", "--pool", records.pool, "-o", records.out, "--per-family", 1, "--json")
    assert said.code == 0
    assert said.json["sources"] == ["everyday questions and 1 of each family, profile split, seed 0"]
    assert asked.experts == NAMES


def test_built_twice_with_the_same_questions_nobody_is_asked_and_the_file_stays_as_it_is(
    records: Records, asked: Asked
) -> None:
    records.build()
    before, _ = records.out.read_bytes(), asked.since()
    again = records.build("--json")
    assert (again.code, asked.experts) == (0, [])
    assert again.json["right"] == dict.fromkeys(NAMES, 3)
    assert records.out.read_bytes() == before


def test_only_an_expert_whose_weights_changed_is_asked_again(records: Records, asked: Asked) -> None:
    records.build()
    asked.since()
    for content in ("first", "other"):
        records.retrain("speaker", content)
        assert records.build().code == 0
        assert asked.since() == ["speaker"]
    assert records.build().code == 0
    assert asked.since() == []
    assert list(records.read()["experts"]) == NAMES


def test_only_an_expert_that_is_new_is_asked(records: Records, asked: Asked) -> None:
    records.build()
    asked.since()
    records.pool.write_bytes(echo_pool(records.pool.parent / "larger", [*NAMES, "poet"]).read_bytes())
    assert records.build().code == 0
    assert asked.since() == ["poet"]
    assert list(records.read()["experts"]) == [*NAMES, "poet"]


def test_an_expert_that_left_the_pool_leaves_the_file(records: Records, asked: Asked) -> None:
    records.build()
    asked.since()
    records.pool.write_bytes(echo_pool(records.pool.parent / "smaller", NAMES[:2]).read_bytes())
    assert records.build().code == 0
    assert (asked.experts, list(records.read()["experts"])) == ([], NAMES[:2])


def test_other_questions_replace_the_evidence_and_everyone_is_asked(records: Records, asked: Asked) -> None:
    records.build()
    asked.since()
    assert records.build(first=10).code == 0
    assert asked.experts == NAMES
    assert records.read()["about"]["sources"] == ["suite10.jsonl"]
    assert records.read()["experts"]["adder"]["overall"] == [3, 6]


@pytest.mark.parametrize(("interruption", "code"), [(EngineError, 1), (KeyboardInterrupt, 130)])
def test_interrupted_a_build_goes_on_where_it_stopped_and_ends_with_the_same_file(
    records: Records, asked: Asked, interruption: type[BaseException], code: int
) -> None:
    records.build()
    whole, _ = records.read(), asked.since()
    records.out.unlink()
    asked.breaks_at, asked.interruption = "sorter", interruption
    said = records.build()
    assert (said.code, asked.since()) == (code, NAMES)
    assert len(said.errors) == (code == 1)
    assert not records.out.exists()
    assert list(json.loads(records.partial.read_text())["experts"]) == NAMES[:2]
    asked.breaks_at = ""
    assert records.build().code == 0
    assert asked.since() == ["sorter"]
    assert records.read() == whole
    assert not records.partial.exists()


def test_an_interrupted_rebuild_leaves_the_file_that_is_there_as_it_is(records: Records, asked: Asked) -> None:
    records.build()
    before = records.out.read_bytes()
    asked.breaks_at = "sorter"
    assert records.build(first=10).code == 1
    assert records.out.read_bytes() == before


def test_what_an_interrupted_build_left_of_other_questions_is_not_gone_on_from(records: Records, asked: Asked) -> None:
    asked.breaks_at = "sorter"
    records.build()
    asked.breaks_at, _ = "", asked.since()
    assert records.build(first=10).code == 0
    assert asked.experts == NAMES
    assert records.read()["about"]["sources"] == ["suite10.jsonl"]


def test_add_adds_other_evidence_to_what_is_there(records: Records, asked: Asked) -> None:
    records.build()
    asked.since()
    said = records.build("--add", "--json", first=10)
    assert (said.code, asked.experts) == (0, NAMES)
    assert (said.json["questions"], said.json["sources"]) == (18, ["suite0.jsonl", "suite10.jsonl"])
    row = records.read()["experts"]["adder"]
    assert len(set(row["digests"])) == 2
    assert (row["overall"], row["skills"]["sums"], row["skills"]["spanish"]) == ([6, 12], [6, 0], [0, 6])
    assert row["tokens"] == 3.0


def test_add_to_a_file_that_is_not_there_builds_it(records: Records) -> None:
    assert records.build("--add").code == 0
    added = records.read()
    records.out.unlink()
    records.build()
    assert added == records.read()


def test_evidence_that_is_there_already_is_not_added_again(records: Records, asked: Asked) -> None:
    records.build()
    records.build("--add", first=10)
    before, _ = records.read(), asked.since()
    for first in (0, 10):
        assert records.build("--add", first=first).code == 0
        assert asked.since() == []
        assert records.read() == before


def test_building_again_from_a_part_of_the_evidence_keeps_the_topics_of_the_rest(records: Records) -> None:
    records.build(on=["sums"])
    records.build("--add", first=10, on=["spanish", "sorting"])
    before = records.read()
    assert set(before["parents"]) == set(SKILLS)
    assert records.build(on=["sums"]).code == 0
    assert records.read() == before


def test_a_newcomer_is_asked_for_all_the_evidence_that_is_added_again(records: Records) -> None:
    records.build(on=["sums"])
    records.build("--add", first=10, on=["spanish", "sorting"])
    records.pool.write_bytes(echo_pool(records.pool.parent / "larger", [*NAMES, "poet"]).read_bytes())
    assert records.build(on=["sums"]).code == 0
    assert records.build("--add", first=10, on=["spanish", "sorting"]).code == 0
    assert {name: sum(row["overall"]) for name, row in records.read()["experts"].items()} == dict.fromkeys(
        [*NAMES, "poet"], 9
    )


def test_what_was_cut_short_while_it_was_written_is_begun_again(records: Records, asked: Asked) -> None:
    records.partial.write_text('{"format": 2, "exp', encoding="utf-8")
    assert records.build().code == 0
    assert asked.experts == NAMES


def test_a_retrained_experts_old_evidence_is_replaced_and_not_added_to(records: Records) -> None:
    records.build()
    records.retrain("speaker")
    records.build("--add", first=10)
    found = records.read()["experts"]
    assert {name: sum(row["overall"]) for name, row in found.items()} == {"adder": 18, "speaker": 9, "sorter": 18}


def test_show_tells_what_everyone_is_on_record_for(records: Records) -> None:
    records.build()
    said = records.symmoe("profile", "show", "--pool", records.pool)
    assert said.code == 0
    assert all(f"{skill} 3/3" in said.out for skill in OWN.values())
    found = records.symmoe("profile", "show", "--pool", records.pool, "--json").json
    assert list(found) == NAMES
    assert found["adder"]["skills"]["sums"] == {"right": 3, "wrong": 0}
    assert not any(row["stale"] for row in found.values())


def test_show_marks_a_record_that_was_earned_by_other_weights(records: Records) -> None:
    records.build()
    assert "stale" not in records.symmoe("profile", "show", "--pool", records.pool).out
    records.retrain("speaker")
    found = records.symmoe("profile", "show", "--pool", records.pool, "--json").json
    assert {name: row["stale"] for name, row in found.items()} == {"adder": False, "speaker": True, "sorter": False}
    said = records.symmoe("profile", "show", "--pool", records.pool).out
    assert [line for line in said.splitlines() if "stale" in line] == [
        line for line in said.splitlines() if "speaker" in line
    ]
    one = records.symmoe("profile", "show", "--pool", records.pool, "--expert", "speaker", "--json").json
    assert one["stale"]
    checked = records.symmoe("pool", "check", records.pool, "--json").json
    assert len([note for note in checked["notes"] if note.startswith("speaker: ")]) == 1


def test_show_of_one_expert_gives_what_is_expected_of_it_skill_by_skill_best_first(records: Records) -> None:
    records.build()
    found = records.symmoe("profile", "show", "--pool", records.pool, "--expert", "adder", "--json").json
    assert (found["expert"], found["overall"]) == ("adder", {"right": 3, "wrong": 6})
    rows = found["posterior"]
    assert rows[0]["skill"] == "sums"
    assert [row["mean"] for row in rows] == sorted((row["mean"] for row in rows), reverse=True)
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert rows[0]["mean"] > 0.5 > rows[1]["mean"]
    table = records.symmoe("profile", "show", "--pool", records.pool, "--expert", "adder").out
    assert "The record of adder" in table
    assert all(skill in table for skill in OWN.values())


def test_an_expert_without_a_record_is_shown_with_nothing_asked(records: Records) -> None:
    records.build()
    document = records.read()
    del document["experts"]["sorter"]
    records.out.write_text(json.dumps(document), encoding="utf-8")
    found = records.symmoe("profile", "show", "--pool", records.pool, "--json").json
    assert found["sorter"]["overall"] == {"right": 0, "wrong": 0}
    assert records.symmoe("profile", "show", "--pool", records.pool, "--expert", "sorter").code == 0


def test_a_pool_can_take_its_profiles_from_the_store(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"profiles": "store:team"})
    assert symmoe_command("route", "sums 1", "--pool", pool).code == 2
    assert symmoe_command("profile", "push", tmp_path / "profiles.json", "--name", "team").code == 0
    assert symmoe_command("route", "sums 1", "--pool", pool, "--json").json["recruited"][0] == "adder"
    assert symmoe_command("ask", "sums 1", "--pool", pool).code == 0


def test_what_was_pushed_is_pulled_again(symmoe_command: Symmoe, tmp_path: Path) -> None:
    echo_pool(tmp_path)
    kept, pulled = tmp_path / "profiles.json", tmp_path / "pulled.json"
    symmoe_command("profile", "push", kept, "--name", "team")
    assert symmoe_command("profile", "pull", "team", "-o", pulled).code == 0
    assert symmoe_command("profile", "diff", kept, pulled, "--json").json["only_first"] == []
    assert json.loads(pulled.read_text())["experts"].keys() == json.loads(kept.read_text())["experts"].keys()


def test_the_newest_version_counts_and_pushing_it_again_makes_no_other(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"profiles": "store:team"})
    path = tmp_path / "profiles.json"
    first = symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"]
    assert symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"] == first
    document = json.loads(path.read_text())
    document["experts"]["adder"], document["experts"]["sorter"] = (
        document["experts"]["sorter"],
        document["experts"]["adder"],
    )
    path.write_text(json.dumps(document))
    assert symmoe_command("profile", "push", path, "--name", "team", "--json").json["version"] != first
    assert symmoe_command("route", "sums 1", "--pool", pool, "--json").json["recruited"][0] == "sorter"


def test_of_many_versions_the_last_are_kept(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr("symmoe.routing.profile_store.PROFILE_VERSIONS", 3)
    store = open_store()
    pushed = [push_profiles(store, "team", {"version": number}) for number in range(5)]
    assert sorted(store.rows("profiles:team")) == pushed[2:]
    assert pull_document(store, "team") == {"version": 4}


def test_a_name_that_the_store_does_not_know_is_told(symmoe_command: Symmoe, tmp_path: Path) -> None:
    said = symmoe_command("profile", "pull", "nobody", "-o", tmp_path / "p.json")
    assert (said.code, len(said.errors)) == (2, 1)
    assert "profile push" in said.err


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
    pytest.param("[]", "not a JSON object", id="a list"),
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


READERS = (
    *("route sums --pool {pool}", "ask sums --pool {pool}", "pool check {pool}", "profile show --pool {pool}"),
    *("profile diff {file} {file}", "profile merge {file} -o {pool}.json"),
    "profile build --pool {pool} --per-family 1 --add -o {file}",
)
OF_EACH_COMMAND = [pytest.param(words, "[]", "not a JSON object", id=words) for words in READERS]
BY_ONE_COMMAND = [pytest.param("pool check {pool}", *each.values, id=each.id) for each in UNUSABLE]


@pytest.mark.parametrize(("words", "content", "says"), [*OF_EACH_COMMAND, *BY_ONE_COMMAND])
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
