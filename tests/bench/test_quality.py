from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import symmoe.build
from symmoe.aggregation.consensus import NEVER, Settled, Thresholds
from symmoe.bench.quality import BARS, EVERYDAY, NAMES, NEEDED, claims, compare, kept_apart, read_suites, render
from symmoe.bench.scoring import always_aggregated, outcome, plot_sweep, skipping
from symmoe.bench.ways import Spent
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import SuiteError
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import mixed_suite, split_of
from symmoe.training.rated import Drawing, gather
from symmoe.training.reward import plain
from symmoe.types import Call, Consensus
from tests.bench.conftest import Hall, suite
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question


def knows_all(expert: str, call: Call) -> str:
    """The adder is right on user's questions alone; others, and whoever reads others' answers, are wrong."""
    alone = call.query.messages[0].role == "user"
    return call.query.text.split()[-1] if expert == "adder" and alone else "99"


@pytest.fixture
def report(hall: Hall) -> dict[str, Any]:
    contest = hall.contest(knows_all, questions=1)
    questions = suite(8)
    suites = {"first": questions[:6], "second": questions[6:]}
    return compare(contest.assembly, suites, 2, 0, 0.7, None, 3)


def test_a_comparison_run_again_asks_nothing_and_one_of_more_questions_only_about_these(
    hall: Hall, tmp_path: Path
) -> None:
    kept = tmp_path / "answers.jsonl"

    def run(questions: int) -> tuple[int, dict[str, Any]]:
        assembly = hall.contest(knows_all).assembly
        report = compare(assembly, {"sums": suite(questions)}, 2, 0, 0.7, None, 3, kept=kept)
        routed = ("symmoe", "symbolic_moe", "symbolic_vote")  # whose seconds are of routing, too
        ways = {name: row | ({"seconds": None} if name in routed else {}) for name, row in report["ways"].items()}
        return len(hall.engine.calls), ways

    asked, first = run(6)
    assert asked > 0
    again, second = run(6)
    assert again == 0
    assert second == first
    more, third = run(8)
    assert 0 < more < asked
    assert third["all_vote"]["calls"] == 8 * 3


def test_every_way_is_in_the_report_and_has_a_name(report: dict[str, Any]) -> None:
    assert list(report["ways"]) == ["symmoe", *(name for name in NAMES if name != "symmoe")]
    assert report["bars"].keys() == BARS.keys()
    assert json.loads(json.dumps(report)) == report


def test_accuracies_and_leads_are_those_of_the_answers(report: dict[str, Any]) -> None:
    accuracy = {name: row["accuracy"] for name, row in report["ways"].items()}
    assert accuracy["symmoe"] == accuracy["best_single"] == accuracy["oracle"] == 100
    assert accuracy["moa"] == accuracy["self_moa"] == accuracy["symbolic_moe"] == accuracy["all_vote"] == 0
    assert report["ways"]["moa"]["symmoe_leads_by"] == {"points": 100.0, "ci95": [100.0, 100.0]}
    assert report["ways"]["best_single"]["symmoe_leads_by"] == {"points": 0.0, "ci95": [0.0, 0.0]}
    assert report["ways"]["symmoe"]["symmoe_leads_by"] is None
    assert report["ways"]["oracle"]["right"] == "1" * 8


def test_calls_are_those_that_each_way_would_make_alone(report: dict[str, Any]) -> None:
    calls = {name: row["calls"] for name, row in report["ways"].items()}
    assert (calls["best_single"], calls["best_single_hindsight"], calls["random_vote"]) == (8, 8, 16)
    assert (calls["all_vote"], calls["oracle"], calls["moa"]) == (24, 24, 32)
    assert (calls["self_moa"], calls["symbolic_moe"]) == (32, 24)
    assert calls["self_consistency"] == calls["symmoe"]  # every answer of the adder is one token long


def test_suites_and_families_are_told_apart(report: dict[str, Any]) -> None:
    assert report["suites"] == {"first": 6, "second": 2}
    assert report["families"] == {"sums": 8}
    assert report["ways"]["symmoe"]["suites"] == {"first": 100.0, "second": 100.0}
    assert report["ways"]["moa"]["families"] == {"sums": 0.0}


def test_the_settings_tell_who_played_which_part(report: dict[str, Any]) -> None:
    settings = report["settings"]
    assert settings["best_single"] == settings["best_single_hindsight"] == settings["aggregator"] == "adder"
    assert (settings["k"], settings["moa_proposers"], settings["self_moa_samples"]) == (2, 3, 3)
    assert settings["sampling"] == {"max_tokens": 16, "temperature": 0.7, "top_p": 1.0}


def test_a_claim_holds_only_with_enough_points_an_interval_above_zero_and_no_more_tokens() -> None:
    ours, low, high = [1.0] * 10, [0.0] * 10, [1.0] * 9 + [0.0]
    right = {
        "symmoe": ours,
        "moa": high,
        "self_moa": low,
        "all_vote": low,
        "self_consistency": low,
        "symbolic_moe": low,
    }
    spent = dict.fromkeys(right, Spent(1, 10, 10, 1.0))
    found = claims(right, spent, 0)
    assert found["best_multi_agent_rival"]["against"] == "moa"
    assert found["best_multi_agent_rival"]["points"] == 10.0 > NEEDED
    assert not found["best_multi_agent_rival"]["holds"]  # one question of ten: the interval reaches zero
    assert found["symbolic_moe_as_published"]["holds"]
    assert found["self_consistency_at_equal_tokens"]["holds"]
    dear = claims(right, spent | {"symmoe": Spent(1, 10, 11, 1.0)}, 0)
    assert not dear["symbolic_moe_as_published"]["holds"]
    assert dear["symbolic_moe_as_published"]["tokens"] == {"completion": [11, 10], "all": [21, 20]}
    assert dear["self_consistency_at_equal_tokens"]["holds"]


def test_a_lead_of_less_than_was_reported_is_not_enough() -> None:
    ours, theirs = [1.0] * 1000, [1.0] * 930 + [0.0] * 70
    right = dict.fromkeys(("symmoe", "moa", "self_moa", "all_vote", "self_consistency", "symbolic_moe"), theirs)
    found = claims(right | {"symmoe": ours}, dict.fromkeys(right, Spent()), 0)
    assert found["best_multi_agent_rival"]["ci95"][0] > 0
    assert not found["best_multi_agent_rival"]["holds"]
    assert found["symbolic_moe_as_published"]["holds"]


def write(path: Path, *idents: str, bad: bool = False) -> Path:
    lines = [json.dumps({"id": i, "question": f"{i}?", "answer": "1", "scorer": "number"}) for i in idents]
    path.write_text("\n".join([*lines, *(['{"id": "x", "question": "?"}'] if bad else [])]), encoding="utf-8")
    return path


def test_suites_are_named_after_their_files(tmp_path: Path) -> None:
    suites = read_suites([write(tmp_path / "one.jsonl", "a", "b"), write(tmp_path / "two.jsonl", "c")])
    assert {name: [q.id for q in own] for name, own in suites.items()} == {"one": ["a", "b"], "two": ["c"]}


def test_a_bad_line_is_refused_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"one\.jsonl: line 3: no known answer"):
        read_suites([write(tmp_path / "one.jsonl", "a", "b", bad=True)])


def test_an_id_in_two_suites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"two\.jsonl: id 'b' is also in .*one\.jsonl"):
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
    validation = {q.question for seed in (0, 1) for q in mixed_suite(3, "profile", seed)}
    assert validation.isdisjoint(apart["even"] + apart["uneven"])


def test_the_second_suite_mixes_the_families_otherwise_and_shares_no_question(apart: dict[str, list[str]]) -> None:
    assert len(set(apart["even"]) | set(apart["uneven"])) == len(apart["even"]) + len(apart["uneven"])
    families = kept_apart(3, 2026)
    counts = {name: sorted(sum(q.family == f for q in own) for f in FAMILIES) for name, own in families.items()}
    assert counts["even"] == [3] * len(FAMILIES)
    assert len(set(counts["uneven"])) > 1
    assert len({q.id for own in families.values() for q in own}) == sum(map(len, apart.values()))


def test_everyday_questions_are_asked_where_the_pool_knows_more_than_families() -> None:
    suites = kept_apart(1, 2026, EVERYDAY)
    assert list(suites) == ["even", "uneven", "everyday"]
    assert len(suites["everyday"]) == EVERYDAY
    assert not {q.family for q in suites["everyday"]} & set(FAMILIES)


def test_more_questions_hold_those_of_fewer_so_that_answers_can_be_kept() -> None:
    few, more = kept_apart(2, 2026, 10), kept_apart(3, 2026, 20)
    for name, questions in few.items():
        assert {q.id: q.question for q in questions}.items() <= {q.id: q.question for q in more[name]}.items()
    assert len({q.family for q in few["everyday"]}) > 2


@pytest.fixture
def scripted(hall: Hall) -> dict[str, Any]:
    return compare(hall.contest(questions=1).assembly, {"<script>": suite(3)}, 2, 0, 0.7, None, 2)


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314  (our own page)


def test_the_page_is_well_formed_and_has_a_row_for_every_way(scripted: dict[str, Any]) -> None:
    page = parsed(render(scripted))
    first = page.findall(".//table")[0]
    assert [row[0].text for row in first.findall("tr")[1:]] == [NAMES[name] for name in scripted["ways"]]
    assert all(len(row) == 8 for row in first.findall("tr"))


def test_the_page_needs_nothing_beside_it(scripted: dict[str, Any]) -> None:
    page = render(scripted)
    assert not re.search(r"https?:|<link|<script|@import|url\(", page)
    pictures = [image.attrib["src"] for image in parsed(page).iter("img")]
    assert len(pictures) == 3
    for picture in pictures:
        assert b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_names_from_files_are_escaped(scripted: dict[str, Any]) -> None:
    assert "&lt;script&gt; (3)" in render(scripted)


def records(count: int, seed: int = 0) -> list[Settled]:
    """The vote is right where experts agree; elsewhere the synthesis is right and the vote mostly wrong."""
    rng = np.random.default_rng(seed)
    agree = rng.random(count) < 0.6
    return [
        Settled(
            Consensus(1.0 if sure else 1 / 3, 0.9 if sure else 0.1, 1.0, 3),
            float(sure or rng.random() < 0.2),
            1.0,
        )
        for sure in agree
    ]


def test_a_rule_fitted_on_validation_skips_where_experts_agree_and_loses_nothing_on_new_questions() -> None:
    found = skipping(records(300), records(300, seed=1), 0.5, 0)
    assert 0.5 < found["held_out"]["skipped"] < 0.7
    assert found["held_out"]["loss"] == 0.0
    assert found["held_out"]["accuracy"] == found["held_out"]["always_aggregated"] == 1.0
    assert found["held_out"]["never_aggregated"] < 0.8


def test_the_sweep_goes_from_skipping_all_to_skipping_what_is_sure() -> None:
    rows = skipping(records(300), records(300, seed=1), 0.5, 0)["sweep"]["share"]
    assert [rows[0]["skipped"], rows[0]["accuracy"]] == [1.0, rows[0]["never_aggregated"]]
    skipped = [row["skipped"] for row in rows]
    assert skipped == sorted(skipped, reverse=True)
    assert rows[-1]["loss"] == 0.0


def test_a_rule_that_is_never_reached_loses_nothing_and_skips_nothing() -> None:
    told = outcome(records(50), NEVER, 0)
    assert (told["skipped"], told["loss"], told["ci95"]) == (0.0, 0.0, [0.0, 0.0])


def test_the_loss_of_skipping_all_is_what_the_vote_is_behind() -> None:
    told = outcome(records(200), Thresholds(0.0, -1.0, 0.0, 1), 0)
    assert told["loss"] == pytest.approx(100 * (1.0 - told["never_aggregated"]), abs=0.01)
    assert told["ci95"][0] < told["loss"] < told["ci95"][1]


def test_every_question_is_voted_on_and_synthesised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    pool = echo_pool(tmp_path / "pool", engine={"max_model_len": 2000})
    assembly = Assembly(read_pool(str(pool)))
    asked = [question(f"sums {n}", "adder: sums 0", ident=str(n)) for n in range(3)]
    field = gather(assembly, asked, Drawing(draws=0))
    told, failed = always_aggregated(assembly, field, plain(field), "sorter", 0)
    assert [record.vote for record in told] == [1.0, 0.0, 0.0]
    assert [record.consensus.opinions for record in told] == [3, 3, 3]
    assert failed == 3  # an echo repeats its prompt, which is no synthesis: the vote stands
    assert [record.synthesis for record in told] == [record.vote for record in told]


def test_a_sweep_is_drawn(tmp_path: Path) -> None:
    plot_sweep(skipping(records(100), records(100, seed=1), 0.5, 0), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
