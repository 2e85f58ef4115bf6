from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..conftest import SKILLS, echo_pool
from .conftest import Symmoe

NAMES = ["adder", "speaker", "sorter"]


def record(pool: Path, **experts: dict[str, Any]) -> None:
    """Lay keys over the records that `pool` names."""
    path = pool.with_name("profiles.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    for name, keys in experts.items():
        document["experts"][name] |= keys
    path.write_text(json.dumps(document), encoding="utf-8")


def alike(pool: Path, **tokens: float) -> None:
    """Give all experts equal records but for the first, which is a little better; each with its mean of tokens."""
    good = {"overall": [8, 4], "skills": {skill: [8, 4] for skill in SKILLS}}
    record(pool, **{name: good | {"tokens": tokens.get(name, 0)} for name in NAMES})
    record(pool, adder={"overall": [9, 3], "skills": {skill: [9, 3] for skill in SKILLS}})


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("words", [(), ("--explain",), ("--json",), ("--k", 3, "--seed", 4)])
def test_route_loads_no_model(symmoe_command: Symmoe, pool: Path, words: tuple[object, ...]) -> None:
    assert symmoe_command("route", "sums", "--pool", pool, *words).code == 0


@pytest.mark.parametrize(("skill", "expert"), list(zip(SKILLS, NAMES, strict=True)))
def test_route_names_those_who_would_be_asked(symmoe_command: Symmoe, pool: Path, skill: str, expert: str) -> None:
    said = symmoe_command("route", f"{skill} 1", "--pool", pool)
    assert (said.out, said.err) == (f"asked: {expert}\n", "")


@pytest.mark.parametrize("recruiter", ["symmoe", "published", "published-code"])
def test_route_names_the_experts_that_ask_asks(symmoe_command: Symmoe, tmp_path: Path, recruiter: str) -> None:
    pool = echo_pool(tmp_path, routing={"recruiter": recruiter, "top_p": 1.0, "k": 4})
    for seed in range(3):
        words = ("sums and sorting", "--pool", pool, "--seed", seed, "--json")
        routed, asked = symmoe_command("route", *words).json, symmoe_command("ask", *words).json
        assert routed["recruited"] == asked["trace"]["recruited"]
        assert routed["explanation"] == asked["trace"]["explanation"]
        assert routed["explanation"]["recruiter"] == recruiter


def test_explain_shows_skills_standings_and_costs(symmoe_command: Symmoe, pool: Path) -> None:
    alike(pool, adder=20, speaker=30, sorter=40)
    said = symmoe_command("route", "sums 1", "--pool", pool, "--explain")
    assert said.code == 0
    needs, stands, costs = (
        said.out.index(title)
        for title in ("Skills that the question needs", "Experts (symmoe)", "Cost of asking the first k")
    )
    assert needs < stands < costs
    assert "sums" in said.out[needs:stands]
    assert "sums 9/12" in said.out[stands:costs]
    assert all(name in said.out[stands:costs] for name in NAMES)
    assert all(f" {tokens} " in said.out[costs:] for tokens in (20, 50, 90))
    assert said.out.endswith("asked: adder, speaker\n")


def test_without_explain_only_the_experts_are_shown(symmoe_command: Symmoe, pool: Path) -> None:
    assert "Experts (symmoe)" not in symmoe_command("route", "sums 1", "--pool", pool).out


def test_json_holds_the_skills_and_the_whole_explanation(symmoe_command: Symmoe, pool: Path) -> None:
    found = symmoe_command("route", "sums 1", "--pool", pool, "--json").json
    assert set(found) == {"recruited", "skills", "explanation", "stale"}
    assert (found["recruited"], found["stale"]) == (["adder"], [])
    assert found["skills"] == {"query_id": "question", "matches": [{"skill": "sums", "similarity": 1.0}], "facets": []}
    why = found["explanation"]
    assert set(why) == {"query_id", "recruiter", "weights", "standings", "costs", "note"}
    assert sum(why["weights"].values()) == pytest.approx(1, abs=0.001)
    assert sum(standing["share"] for standing in why["standings"]) == pytest.approx(1)
    assert len(why["costs"]) == len(why["standings"]) == 3
    first = why["standings"][0]
    assert set(first) == {"expert", "share", "value", "low", "high", "tokens", "chosen", "why", "evidence"}
    assert (first["expert"], first["chosen"], first["evidence"]) == ("adder", True, {"sums": {"right": 9, "wrong": 0}})
    assert [standing["chosen"] for standing in why["standings"]] == [True, False, False]
    assert all(0 <= s["low"] <= s["value"] <= s["high"] <= 1 for s in why["standings"])


def test_a_question_on_no_skill_of_the_record_says_so(symmoe_command: Symmoe, pool: Path) -> None:
    said = symmoe_command("route", "poetry", "--pool", pool, "--explain")
    assert said.code == 0
    assert "no topic of the question is on record" in said.out


@pytest.mark.parametrize("k", [1, 2, 3, 64])
def test_k_bounds_how_many_are_asked_and_nobody_is_asked_twice(symmoe_command: Symmoe, tmp_path: Path, k: int) -> None:
    pool = echo_pool(tmp_path, routing={"top_p": 1.0})
    alike(pool)
    found = symmoe_command("route", "sums 1", "--pool", pool, "--k", k, "--json").json
    assert found["recruited"] == [standing["expert"] for standing in found["explanation"]["standings"]][:k]
    assert [s["chosen"] for s in found["explanation"]["standings"]] == [n < k for n in range(3)]


def test_without_k_the_pools_own_counts(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"top_p": 1.0, "k": 2})
    alike(pool)
    assert len(symmoe_command("route", "sums 1", "--pool", pool, "--json").json["recruited"]) == 2


def test_no_more_are_asked_than_their_shares_need_to_reach_top_p(symmoe_command: Symmoe, pool: Path) -> None:
    alike(pool)
    found = symmoe_command("route", "sums 1", "--pool", pool, "--json").json
    shares = [standing["share"] for standing in found["explanation"]["standings"]]
    assert 1 < len(found["recruited"]) < 3
    assert sum(shares[: len(found["recruited"]) - 1]) < 0.5 <= sum(shares[: len(found["recruited"])])


@pytest.mark.parametrize(
    ("budget", "recruited"),
    [
        (1000, ["adder", "speaker"]),
        (49, ["adder"]),
        (20, ["adder"]),
        (19, ["sorter"]),
        (10, ["sorter"]),
        (1, ["sorter"]),
    ],
)
@pytest.mark.parametrize("command", ["route", "ask"])
def test_the_budget_bounds_what_is_asked_for_and_the_cheapest_is_asked_where_nobody_fits(
    symmoe_command: Symmoe, pool: Path, command: str, budget: int, recruited: list[str]
) -> None:
    alike(pool, adder=20, speaker=30, sorter=10)
    found = symmoe_command(command, "sums 1", "--pool", pool, "--budget", budget, "--json").json
    assert found.get("trace", found)["recruited"] == recruited


def test_an_expert_over_the_budget_is_said_to_be_over_it(symmoe_command: Symmoe, pool: Path) -> None:
    alike(pool, adder=30, speaker=20, sorter=20)
    words = ("route", "sums 1", "--pool", pool, "--budget", 25, "--json")
    why = {s["expert"]: s["why"] for s in symmoe_command(*words).json["explanation"]["standings"]}
    assert "budget" in why["adder"]


def test_the_budget_of_the_pool_counts_where_none_is_given(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path, routing={"budget": 25})
    alike(pool, adder=30, speaker=20, sorter=20)
    words = ("route", "sums 1", "--pool", pool, "--json")
    assert symmoe_command(*words).json["recruited"] == ["speaker"]
    assert symmoe_command(*words, "--budget", 100).json["recruited"][0] == "adder"


@pytest.mark.parametrize("question", ["", " ", "\n\t"])
@pytest.mark.parametrize("command", ["route", "ask"])
def test_an_empty_question_is_refused_as_bad_input(
    symmoe_command: Symmoe, pool: Path, command: str, question: str
) -> None:
    said = symmoe_command(command, question, "--pool", pool)
    assert (said.code, said.out, said.errors) == (2, "", ["error: the question is empty"])


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("command", ["route", "ask"])
def test_an_empty_question_is_refused_before_anything_is_loaded(
    symmoe_command: Symmoe, pool: Path, command: str
) -> None:
    said = symmoe_command(command, " ", "--pool", pool)
    assert said.code != 0
    assert said.errors == ["error: the question is empty"]


@pytest.mark.parametrize("command", ["route", "ask"])
def test_a_pool_without_profiles_answers_and_says_what_to_do(
    symmoe_command: Symmoe, tmp_path: Path, command: str
) -> None:
    said = symmoe_command(command, "sums", "--pool", echo_pool(tmp_path, routing={"profiles": None}))
    assert (said.code, bool(said.out)) == (0, True)
    assert said.errors == []
    assert "profile build" in said.err


def test_a_stale_record_is_told_beside_the_result(symmoe_command: Symmoe, pool: Path) -> None:
    record(pool, speaker={"fingerprint": "earned by others"})
    said = symmoe_command("route", "sums 1", "--pool", pool)
    assert (said.code, said.out) == (0, "asked: adder\n")
    (told,) = said.err.splitlines()
    assert told.startswith("stale records: speaker ")
    assert "profile build" in told


def test_in_json_a_stale_record_stands_in_the_document_alone(symmoe_command: Symmoe, pool: Path) -> None:
    record(pool, speaker={"fingerprint": "earned by others"}, adder={"fingerprint": "earned by others"})
    said = symmoe_command("route", "sums 1", "--pool", pool, "--json")
    assert (said.json["stale"], said.err) == (["adder", "speaker"], "")


def test_a_question_is_shown_as_it_is_and_no_markup(symmoe_command: Symmoe, pool: Path) -> None:
    assert symmoe_command("route", "[/bold] sums [red]", "--pool", pool, "--explain").code == 0


def test_ask_explains_with_the_same_standings_and_what_was_said(symmoe_command: Symmoe, pool: Path) -> None:
    alike(pool, adder=20, speaker=30, sorter=40)
    words = ("sums 1", "--pool", pool, "--explain")
    asked, routed = symmoe_command("ask", *words).out, symmoe_command("route", *words).out
    tables, _, _ = routed.rpartition("asked: ")
    assert asked.startswith(tables)
    assert "Candidates" in asked
    assert "Vote" in asked
    assert asked.endswith("adder: sums 1\n")


def test_the_trace_of_ask_holds_the_explanation(symmoe_command: Symmoe, pool: Path) -> None:
    trace = symmoe_command("ask", "sums 1", "--pool", pool, "--json").json["trace"]
    why = trace["explanation"]
    assert [s["expert"] for s in why["standings"] if s["chosen"]] == trace["recruited"] == ["adder"]
    assert {s["expert"]: s["share"] for s in why["standings"]} == pytest.approx(trace["shares"])


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": f"{n}", "question": f"sums {n}", "answer": f"{n}", "family": "sums", "scorer": "number"}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_report_and_a_page_stand_beside_each_other(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "quality.json"
    said = symmoe_command("bench", "quality", "--pool", pool, "--suite", suite, "-o", out)
    assert said.code == 0
    assert "Mixture-of-Agents" in said.out
    report = json.loads(out.read_text())
    assert report["suites"] == {"mine": 4}
    assert out.with_suffix(".html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_options_reach_the_ways(symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path) -> None:
    words = ("--k", 1, "--proposers", 2, "--samples", 4, "--temperature", 0.5, "--seed", 9)
    said = symmoe_command(
        "bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json", *words, "--json"
    )
    settings = said.json["settings"]
    assert (settings["k"], settings["moa_proposers"], settings["self_moa_samples"], settings["seed"]) == (1, 2, 4, 9)
    assert settings["sampling"]["temperature"] == 0.5
    calls = {name: row["calls"] for name, row in said.json["ways"].items()}
    assert (calls["moa"], calls["self_moa"], calls["random_vote"], calls["symbolic_moe"]) == (12, 20, 4, 8)


def test_the_aggregator_of_the_rivals_may_be_named(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    words = ("bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json", "--json")
    assert symmoe_command(*words).json["settings"]["aggregator"] == "adder"
    assert symmoe_command(*words, "--aggregator", "sorter").json["settings"]["aggregator"] == "sorter"
    assert symmoe_command(*words, "--aggregator", "nobody").code == 2


def test_a_suite_with_a_bad_line_is_refused_with_its_number(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    with suite.open("a", encoding="utf-8") as file:
        file.write('{"id": "x", "question": "sums", "answer": "1", "scorer": "guess"}\n')
    said = symmoe_command("bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json")
    assert said.code == 2
    assert len(said.errors) == 1
    assert "mine.jsonl: line 5: scorer" in said.errors[0]
    assert not (tmp_path / "q.json").exists()


def test_aggregation_skills_go_into_a_profile_file(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "skilled.json"
    said = symmoe_command("aggregator", "bench", "--pool", pool, "--suite", suite, "-o", out, "--json")
    before = json.loads(pool.with_name("profiles.json").read_text())
    after = json.loads(out.read_text())
    assert after["about"]["aggregation"] == "mine.jsonl"
    for name, record in after["experts"].items():
        assert record["skills"] == before["experts"][name]["skills"]
        assert sum(record["aggregation"]["number"]) == said.json["tasks"] == 4
    assert symmoe_command("profile", "merge", out, "-o", tmp_path / "again.json").code == 0


def test_without_a_file_the_skills_are_only_shown(symmoe_command: Symmoe, pool: Path, suite: Path) -> None:
    before = pool.with_name("profiles.json").read_bytes()
    said = symmoe_command("aggregator", "bench", "--pool", pool, "--suite", suite)
    assert said.code == 0
    assert "points over chance" in said.out
    assert pool.with_name("profiles.json").read_bytes() == before
