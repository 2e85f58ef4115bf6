from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from symmoe.bench.demo import demo_report, plot_report
from symmoe.profiles.grading import Matrix
from symmoe.types import Answer, Candidate, Load, Outcome, Refusal, Trace
from tests.fakes import candidate, question

QUESTIONS = [
    question("one", "1", "sums", "number", ident="q1"),
    question("two", "2", "sums", "number", ident="q2"),
    question("three", "3", "words", "exact", ident="q3"),
    question("four", "4", "words", "exact", ident="q4"),
]
#                                   q1     q2     q3     q4
MATRIX = Matrix(
    tuple(QUESTIONS),
    {"a": (True, False, False, True), "b": (False, False, False, True)},
    12.3456,
    {"a": 50, "b": 30},
    {"a": ("1", "1", "1", "4"), "b": ("?", "?", "?", "4")},
)


def trace(ident: str, text: str, *candidates: Candidate) -> Trace:
    prompt = sum(c.prompt_tokens for c in candidates if not c.shared)
    completion = sum(c.completion_tokens for c in candidates if not c.shared)
    said = Answer(ident, text, candidates[0].expert, (), "stop", prompt, completion)
    return Trace(ident, (), {}, tuple(c.expert for c in candidates), candidates, (), said)


@pytest.fixture
def report() -> dict[str, Any]:
    outcome = Outcome(
        results=(
            trace("q1", "1", candidate("a", "1"), candidate("a", "1", slot=1, shared=True)),
            trace("q2", "2", candidate("b", "2"), candidate("a", "5")),
            trace("q3", "three", candidate("a", "three")),
            Refusal("q4", "context_length_exceeded", "too long"),
        ),
        loads=(Load("a", "merged", 0.25, 100, "why"), Load("b", "swap", 0.5, 50, "why")),
        seconds={"tag": 0.12345, "load": 0.75},
    )
    return demo_report(QUESTIONS, outcome, MATRIX, engine_start=8.21994, settings={"k": 2})


def test_accuracies_are_those_counted_by_hand(report: dict[str, Any]) -> None:
    assert report["questions"] == 4
    # symmoe: q1 and q2; best single: a with q1 and q4; at random: (2 + 1) of 8; in hindsight: q1 and q4
    assert report["accuracy"] == {"symmoe": 0.5, "best_single": 0.5, "random_expert": 0.375, "oracle": 0.5}
    assert report["best_single"] == "a"


def test_generated_families_and_everyday_questions_are_told_apart_where_both_are_asked(report: dict[str, Any]) -> None:
    assert report["kinds"] == {}
    mixed = [replace(each, family="roman") if each.family == "sums" else each for each in QUESTIONS]
    kinds = demo_report(mixed, Outcome((trace("q1", "1", candidate("a", "1")),) * 4), MATRIX, 0.0, {})["kinds"]
    assert kinds["all families"] == {"symmoe": 0.5, "best_single": 0.5, "random_expert": 0.25, "oracle": 0.5}
    assert kinds["all everyday"] == {"symmoe": 0.0, "best_single": 0.5, "random_expert": 0.5, "oracle": 0.5}


def test_families_are_told_one_by_one(report: dict[str, Any]) -> None:
    assert report["families"] == {
        "sums": {"symmoe": 1.0, "best_single": 0.5, "random_expert": 0.25, "oracle": 0.5},
        "words": {"symmoe": 0.0, "best_single": 0.5, "random_expert": 0.5, "oracle": 0.5},
    }


def test_what_each_expert_did_is_told_and_shared_candidates_are_no_requests(report: dict[str, Any]) -> None:
    assert report["experts"] == {
        "a": {
            "loads": 1, "requests": 3, "lane": "merged", "swap_seconds": 0.25, "bytes": 100, "accuracy_alone": 0.5,
        },
        "b": {"loads": 1, "requests": 1, "lane": "swap", "swap_seconds": 0.5, "bytes": 50, "accuracy_alone": 0.25},
    }  # fmt: skip


def test_seconds_and_tokens_are_those_of_the_run_and_the_baselines_stand_apart(report: dict[str, Any]) -> None:
    assert report["seconds"] == {"engine_start": 8.22, "tag": 0.123, "load": 0.75}
    assert report["tokens"] == {"prompt": 40, "completion": 20}
    assert report["reference"] == {"seconds": 12.346, "completion_tokens": 80}
    assert report["settings"] == {"k": 2}


def test_a_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report


def test_an_expert_that_was_not_needed_has_no_lane() -> None:
    outcome = Outcome((trace("q1", "1", candidate("a", "1")),))
    matrix = Matrix((QUESTIONS[0],), {"a": (True,), "b": (False,)}, 1.0, {"a": 1, "b": 0}, {"a": ("1",), "b": ("?",)})
    told = demo_report(QUESTIONS[:1], outcome, matrix, 0.0, {})["experts"]["b"]
    assert (told["loads"], told["requests"], told["lane"]) == (0, 0, None)


def test_the_plot_of_a_report_is_a_picture(report: dict[str, Any], tmp_path: Path) -> None:
    plot_report(report, tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    assert width > 2 * height > 400
