from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError, replace

import pytest

from symmoe.types import (
    Answer,
    Assessment,
    Candidate,
    ExpertProfile,
    Explanation,
    Hedge,
    Message,
    Picture,
    Query,
    Question,
    Refusal,
    Sampling,
    SkillMatch,
    Tally,
    Trace,
    Verdict,
    Vote,
    to_json,
)

CANDIDATE = Candidate("q1", "adder", 1, "5", "stop", 7, 2, "merged", shared=True)
STANDING = Assessment("adder", 0.75, 0.9, 0.8, 0.95, 12.5, True, "best expected accuracy", {"sums": Tally(9, 1)})
TRACE = Trace(
    query_id="q1",
    skills=(SkillMatch("sums", 0.75),),
    shares={"adder": 0.75, "speaker": 0.25},
    recruited=("adder", "speaker"),
    candidates=(CANDIDATE,),
    verdicts=(Verdict("adder", 1, 0.75),),
    answer=Answer("q1", "5", "adder", (Vote("5", 1.0, ("adder", "speaker")),), "stop", 7, 2),
    facets=("format: number", "language: english"),
    hedges=(Hedge(("speaker",), ("adder",), "late", 1.5),),
    unheard=("adder",),
    explanation=Explanation("q1", "symmoe", {"sums": 1.0}, (STANDING,), (12.5,)),
)


def test_a_candidate_comes_back_equal_from_its_json() -> None:
    assert Candidate.from_json(json.loads(json.dumps(to_json(CANDIDATE)))) == CANDIDATE


def test_a_question_comes_back_equal_from_its_json() -> None:
    question = Question("1", "¿Cuánto es 2 + 3?", "cinco", "spanish", "exact")
    found = json.loads(json.dumps(to_json(question)))
    assert Question(**found | {"accepted": tuple(found["accepted"])}) == question


def test_the_json_of_a_trace_holds_every_part_of_it() -> None:
    document = json.loads(json.dumps(to_json(TRACE)))
    assert document == {
        "query_id": "q1",
        "skills": [{"skill": "sums", "similarity": 0.75}],
        "shares": {"adder": 0.75, "speaker": 0.25},
        "recruited": ["adder", "speaker"],
        "candidates": [json.loads(json.dumps(to_json(CANDIDATE)))],
        "verdicts": [{"expert": "adder", "slot": 1, "weight": 0.75, "reward": None}],
        "answer": {
            "query_id": "q1",
            "text": "5",
            "expert": "adder",
            "votes": [{"answer": "5", "share": 1.0, "experts": ["adder", "speaker"], "members": []}],
            "finish_reason": "stop",
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "origin": "vote",
            "why": "",
            "novel": False,
        },
        "consensus": None,
        "synthesis": None,
        "way": "aggregated",
        "posterior": None,
        "failed": {},
        "hedges": [{"experts": ["speaker"], "beside": ["adder"], "why": "late", "seconds": 1.5}],
        "unheard": ["adder"],
        "facets": ["format: number", "language: english"],
        "explanation": {
            "query_id": "q1",
            "recruiter": "symmoe",
            "weights": {"sums": 1.0},
            "standings": [
                {
                    "expert": "adder",
                    "share": 0.75,
                    "value": 0.9,
                    "low": 0.8,
                    "high": 0.95,
                    "tokens": 12.5,
                    "chosen": True,
                    "why": "best expected accuracy",
                    "evidence": {"sums": {"right": 9, "wrong": 1}},
                }
            ],
            "costs": [12.5],
            "note": "",
        },
    }


def test_a_trace_without_an_explanation_says_so_in_its_json() -> None:
    document = to_json(replace(TRACE, facets=(), explanation=None))
    assert (document["facets"], document["explanation"]) == ((), None)


def test_a_tally_counts_a_graded_answer_in_part_as_right_and_in_part_as_wrong() -> None:
    tally = Tally(2.5, 1.5)
    assert (tally.asked, tally.score) == (4.0, 1.0)
    assert (Tally(0, 0).asked, Tally(0, 0).score) == (0, 0)


def test_the_json_of_a_record_holds_what_it_was_earned_by() -> None:
    record = ExpertProfile("adder", {"sums": Tally(2, 1)}, Tally(2, 1), 3.5, "f00d", "2026-01-02")
    assert json.loads(json.dumps(to_json(record))) == {
        "expert": "adder",
        "skills": {"sums": {"right": 2, "wrong": 1}},
        "overall": {"right": 2, "wrong": 1},
        "tokens": 3.5,
        "fingerprint": "f00d",
        "date": "2026-01-02",
        "digests": [],
        "borrowed": {},
        "aggregation": {},
        "earned": {},
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


def test_one_question_about_many_images_has_as_many_hashes() -> None:
    asked = {Message("user", "What is this?", images=(Picture(f"data:{number}"),)) for number in range(100)}
    assert len({hash(message) for message in asked}) > 90
    assert hash(Message("user", "What?")) == hash(Message("user", "What?"))


def test_values_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        Refusal("q", "code", "why").code = "other"  # type: ignore[misc]


def test_values_made_by_the_dozen_are_equal_hashed_and_copied_by_what_they_hold() -> None:
    one, same = (Query("q", (Message("user", "One?"),), Sampling(8)) for _ in range(2))
    assert one == same
    assert len({one, same}) == 1
    assert copy.deepcopy(one) == one
    assert replace(one, id="other") == Query("other", one.messages, one.sampling)
