"""Policies tried on records, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from symmoe import replaying
from symmoe.aggregation.vote import VoteState
from symmoe.config import read_pool
from symmoe.errors import PoolError, RecordsError
from symmoe.profiles.believing import Course, fit_belief
from symmoe.records.files import Records, read_records, write_records
from symmoe.replaying import Replay, Setting, compare
from symmoe.types import Belief

from ..cli.conftest import Symmoe
from ..cli.conftest import symmoe_command as symmoe_command
from ..conftest import SKILLS
from ..fakes import NamingTagger
from .conftest import recorded


@pytest.fixture(autouse=True)
def skills_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question's skills are those whose names stand in it, as everywhere under `symmoe_command`."""
    monkeypatch.setattr(replaying, "build_tagger", lambda *_: NamingTagger(*SKILLS))


@pytest.fixture
def report(symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path) -> Any:
    words = ("--k", 1, "--k", 3, "--quality", 0.6, "--recruiter", "symmoe", "--recruiter", "published")
    said = symmoe_command("replay", directory, "--pool", pool_file, *words, "-o", tmp_path / "r.json", "--json")
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "r.json").read_text()) == said.json
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    return said.json


def test_settings_stand_side_by_side_with_what_they_cost(report: Any) -> None:
    one, three = report["settings"]["symmoe, k = 1"], report["settings"]["symmoe, k = 3"]
    assert list(report["settings"]) == [
        "symmoe, k = 1",
        "symmoe, k = 1, quality 0.6",
        "symmoe, k = 3",
        "symmoe, k = 3, quality 0.6",
        "published, k = 1",
        "published, k = 3",
    ]
    assert (one["accuracy"], one["calls"], one["cost"], one["seconds"]) == (100.0, 12, 3.0, 18.0)
    assert (three["calls"], three["cost"], three["prompt_tokens"]) == (36, 9.0, 720)
    assert (one["completion_tokens"], one["tokens_estimated"]) == (4 * (5 + 6 + 7), False)
    assert one["experts"] == {"adder": 4, "speaker": 4, "sorter": 4}
    assert (three["same_as_first"], three["unrecorded"], three["unanswered"]) == (100.0, 0, 0)
    assert one["right"] == "1" * 12


def test_ways_without_recruiting_stand_beside_them(report: Any) -> None:
    ways = {name: (row["accuracy"], row["calls"]) for name, row in report["references"].items()}
    assert ways == {
        "best_single": (33.33, 12),
        "best_single_hindsight": (33.33, 12),
        "vote_of_all": (0.0, 36),
        "oracle": (100.0, 36),
    }
    assert report["over_best_single"]["symmoe, k = 1"]["points"] == 66.67


def test_the_dial_asks_only_whom_it_must(report: Any) -> None:
    dial = report["settings"]["symmoe, k = 3, quality 0.6"]
    assert (dial["accuracy"], dial["calls"]) == (100.0, 12)
    assert 90 < dial["promised"] < 100
    assert report["settings"]["published, k = 3"]["promised"] is None
    assert report["settings"]["published, k = 3"]["ece"] is None
    assert dial["ece"] == pytest.approx(100 - dial["promised"], abs=0.02)  # every answer is right
    assert sum(row["questions"] for row in dial["reliability"]) == 12
    assert {row["right"] for row in dial["reliability"]} == {100.0}


def test_an_expert_left_out_is_not_asked_and_what_it_alone_could_is_lost(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    said = symmoe_command(
        "replay", directory, "--pool", pool_file, "--without", "adder", "--k", 1, "-o", tmp_path / "r.json", "--json"
    )
    row = said.json["settings"]["symmoe, k = 1"]
    assert (row["accuracy"], set(row["experts"])) == (66.67, {"speaker", "sorter"})
    assert row["families"] == {"sorting": 100.0, "spanish": 100.0, "sums": 0.0}


def test_without_known_answers_agreement_is_told(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    write_records(directory, recorded(known=False))
    said = symmoe_command("replay", directory, "--pool", pool_file, "--k", 3, "-o", tmp_path / "r.json", "--json")
    row = said.json["settings"]["symmoe, k = 3"]
    assert (row["accuracy"], row["calls"], row["agreement"]) == (None, 36, 33.33)
    assert symmoe_command("replay", directory, "--pool", pool_file, "-o", tmp_path / "r.json").code == 0


def test_what_nobody_answered_is_counted(pool_file: Path) -> None:
    records = recorded()
    some = {ident: given for ident, given in records.answers["adder"].items() if ident != "q0"}
    lacking = Records(records.questions, {**records.answers, "adder": some})
    report = compare(Replay(read_pool(str(pool_file)), lacking), [Setting(k=1)], seed=0)
    row = report["settings"]["symmoe, k = 1"]
    assert (row["calls"], row["unrecorded"], row["unanswered"]) == (12, 1, 1)
    assert (row["calls_per_question"], row["experts"]["adder"]) == (1.0, 4)


def test_profiles_are_learned_from_a_share_and_tried_on_the_rest(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    write_records(directory, recorded(60))
    said = symmoe_command(
        "replay", directory, "--pool", pool_file, "--learn", 0.5, "--k", 1, "-o", tmp_path / "r.json", "--json"
    )
    assert 0 < said.json["questions"] < 60
    assert said.json["settings"]["symmoe, k = 1"]["accuracy"] == 100.0


def test_a_newcomer_is_worth_what_the_pool_lacks_without_it(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    write_records(directory, recorded(60))
    said = symmoe_command(
        "replay", directory, "--pool", pool_file, "--learn", 0.5, "--k", 1, "--newcomer", "adder", "--questions", 12,
        "-o", tmp_path / "r.json", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    (ways,) = said.json["newcomers"].values()
    assert list(ways) == ["not at all", "12 questions", "12 questions, no labels"]
    assert said.json["full"]["accuracy"] == ways["12 questions"]["accuracy"] == 100.0
    assert ways["not at all"]["under_full"]["points"] == pytest.approx(-100 / 3, abs=10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--without", "nobody"), "has no expert 'nobody'"),
        (("--recruiter", "magic"), "no recruiter is called 'magic'"),
    ],
)
def test_bad_options_are_one_error(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, words: tuple[str, ...], told: str
) -> None:
    said = symmoe_command("replay", directory, "--pool", pool_file, *words)
    assert (said.code, len(said.errors)) == (2, 1)
    assert told in said.errors[0]


def test_records_that_lack_an_expert_are_told(pool_file: Path, directory: Path) -> None:
    records = read_records(directory)
    fewer = Records(records.questions, {e: a for e, a in records.answers.items() if e != "adder"}, str(directory))
    pool = read_pool(str(pool_file))
    with pytest.raises(RecordsError, match="no answers of adder"):
        Replay(pool, fewer)
    assert Replay(pool, fewer, without=["adder"]).experts == ["speaker", "sorter"]
    with pytest.raises(PoolError):
        Replay(pool, records, without=["nobody"])


def test_belief_is_fitted_to_how_often_votes_are_right() -> None:
    alone, three = VoteState((2.2,), (0.5,), 1, 10), VoteState((6.6,), (1.5,), 3, 10)
    nobody = VoteState((), (), 0, 10)
    courses = [
        Course(((nobody, False), (alone, n % 2 == 0), (three, n % 10 < 7), (three, n % 10 < 7)), ((2.2, 0.5),) * 3)
        for n in range(400)
    ]
    belief = fit_belief(courses)
    assert alone.posterior(belief) == pytest.approx(0.5, abs=0.02)
    assert three.posterior(belief) == pytest.approx(0.7, abs=0.02)
    assert three.posterior(Belief(overlap=0)) > 0.98
    assert fit_belief(courses[:9]) == Belief()
