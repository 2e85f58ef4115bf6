from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from symmoe.types import (
    Answer,
    Candidate,
    Message,
    Query,
    Question,
    Refusal,
    Sampling,
    SkillMatch,
    Trace,
    Verdict,
    Vote,
    to_json,
)

CANDIDATE = Candidate("q1", "adder", 1, "5", "stop", 7, 2, "merged", shared=True)
TRACE = Trace(
    query_id="q1",
    skills=(SkillMatch("sums", 0.75),),
    shares={"adder": 0.75, "speaker": 0.25},
    recruited=("adder", "speaker"),
    candidates=(CANDIDATE,),
    verdicts=(Verdict("adder", 1, 0.75),),
    answer=Answer("q1", "5", "adder", (Vote("5", 1.0, ("adder", "speaker")),), "stop", 7, 2),
)


def test_a_candidate_comes_back_equal_from_its_json() -> None:
    assert Candidate(**json.loads(json.dumps(to_json(CANDIDATE)))) == CANDIDATE


def test_a_question_comes_back_equal_from_its_json() -> None:
    question = Question("1", "¿Cuánto es 2 + 3?", "cinco", "spanish", "exact")
    assert Question(**json.loads(json.dumps(to_json(question)))) == question


def test_the_json_of_a_trace_holds_every_part_of_it() -> None:
    document = json.loads(json.dumps(to_json(TRACE)))
    assert document == {
        "query_id": "q1",
        "skills": [{"skill": "sums", "similarity": 0.75}],
        "shares": {"adder": 0.75, "speaker": 0.25},
        "recruited": ["adder", "speaker"],
        "candidates": [to_json(CANDIDATE)],
        "verdicts": [{"expert": "adder", "slot": 1, "weight": 0.75}],
        "answer": {
            "query_id": "q1",
            "text": "5",
            "expert": "adder",
            "votes": [{"answer": "5", "share": 1.0, "experts": ["adder", "speaker"]}],
            "finish_reason": "stop",
            "prompt_tokens": 7,
            "completion_tokens": 2,
        },
    }


def test_the_text_of_a_query_is_its_last_user_turn() -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "1"),
        Message("user", "Two?"),
    )
    assert Query("q", turns, Sampling(8)).text == "Two?"
    assert Query("q", (*turns, Message("assistant", "2")), Sampling(8)).text == "Two?"


def test_a_query_without_a_user_turn_is_worded_by_its_last_turn() -> None:
    assert Query("q", (Message("system", "a"), Message("assistant", "b")), Sampling(8)).text == "b"


def test_values_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        Refusal("q", "code", "why").code = "other"  # type: ignore[misc]
