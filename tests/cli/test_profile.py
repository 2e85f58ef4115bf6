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
