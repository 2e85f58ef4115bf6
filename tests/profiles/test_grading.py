from __future__ import annotations

import numpy as np
import pytest

from symmoe.config import SamplingConfig
from symmoe.engines.echo import EchoEngine
from symmoe.loading.lanes import ExpertWeights
from symmoe.pipeline import Watch
from symmoe.profiles.grading import RESAMPLES, Matrix, as_query, estimate, paired, run_matrix
from symmoe.types import Candidate, Load, Message, Sampling
from tests.fakes import echo_parts, question


def test_a_question_is_asked_without_its_answer_or_its_scorer() -> None:
    asked = as_query(question("What?", "SECRET", scorer="choice", ident="7"), SamplingConfig(max_tokens=9, top_p=0.5))
    assert asked.id == "7"
    assert asked.messages == (Message("user", "What?"),)
    assert asked.sampling == Sampling(9, 0.0, 0.5)
    assert asked.kind == "auto"
    assert "SECRET" not in repr(asked)


QUESTIONS = tuple(question(f"number {n}", f"a: number {n}", ident=str(n)) for n in range(4))


def matrix(**right: str) -> Matrix:
    """`1` for right and `0` for wrong, expert by expert."""
    rows = {expert: tuple(mark == "1" for mark in marks) for expert, marks in right.items()}
    return Matrix(QUESTIONS, rows, seconds=1.0, spent=dict.fromkeys(right, 10), texts={})


def test_the_best_single_expert_is_the_one_right_most_often() -> None:
    found = matrix(a="0011", b="1110", c="1000")
    assert found.best_single == "b"
    assert [found.accuracy(expert) for expert in "abc"] == [0.5, 0.75, 0.25]


def test_of_equally_good_experts_the_first_of_the_pool_is_the_best() -> None:
    assert matrix(a="1000", b="0110", c="1001").best_single == "b"


def test_the_oracle_is_right_where_anybody_is() -> None:
    assert matrix(a="0010", b="1000").any_right == (True, False, True, False)


def test_what_is_known_already_is_not_asked_again() -> None:
    engine = EchoEngine()
    parts = echo_parts({"a": {"s": 1}}, engine=engine)
    before = Candidate("2", "a", 0, "said before", "stop", 3, 7, "resident")
    found = run_matrix(parts.executor, ["a"], parts.models, QUESTIONS, SamplingConfig(), known=[before])
    assert found.texts["a"] == ("a: number 0", "a: number 1", "said before", "a: number 3")
    assert found.spent == {"a": 3 * 3 + 7}


def test_every_expert_is_asked_every_question_after_one_load_each() -> None:
    engine, loads = EchoEngine(), list[Load]()
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}}, engine=engine)
    watch = Watch(loaded=loads.append)
    found = run_matrix(parts.executor, ["a", "b"], parts.models, QUESTIONS, SamplingConfig(), watch)
    # each echoes its own name, and the answers are those of a
    assert found.right == {"a": (True,) * 4, "b": (False,) * 4}
    assert found.texts == {name: tuple(f"{name}: number {n}" for n in range(4)) for name in "ab"}
    assert [load.expert for load in loads] == ["a", "b"]
    assert (engine.started, engine.swaps) == (1, 2)
    assert found.spent == {"a": 4 * 3, "b": 4 * 3}
    assert found.tokens == 2 * 4 * 3
    assert found.questions == QUESTIONS


def test_questions_of_one_text_are_generated_once_and_all_scored() -> None:
    twice = [question("number 1", "a: number 1", ident="x"), question("number 1", "other", ident="y")]
    parts = echo_parts({"a": {"s": 1}})
    found = run_matrix(parts.executor, ["a"], parts.models, twice, SamplingConfig())
    assert found.right == {"a": (True, False)}
    assert found.texts == {"a": ("a: number 1", "a: number 1")}
    assert found.spent == {"a": 3}


def test_only_the_experts_asked_for_are_loaded() -> None:
    loads: list[Load] = []
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}})
    watch = Watch(loaded=loads.append)
    found = run_matrix(parts.executor, ["b"], parts.models, QUESTIONS, SamplingConfig(), watch)
    assert list(found.right) == list(found.spent) == [load.expert for load in loads] == ["b"]


def test_the_tokens_of_a_matrix_are_those_of_all_its_experts() -> None:
    assert matrix(a="0000", b="1111", c="0101").tokens == 30
    assert Matrix((), {}, 0.0, {}, {}).tokens == 0


def test_an_expert_of_many_words_spends_more_than_one_of_few() -> None:
    weights = {"a": ExpertWeights("base", "in a few words"), "b": ExpertWeights("base", "b")}
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}}, weights.__getitem__)
    found = run_matrix(parts.executor, ["a", "b"], parts.models, QUESTIONS, SamplingConfig())
    assert found.spent == {"a": 4 * 6, "b": 4 * 3}


def test_equal_ways_differ_by_nothing_for_sure() -> None:
    right = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert paired(right, right, 0) == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_a_difference_is_in_points_and_has_the_sign_of_the_first() -> None:
    assert paired([1.0] * 4, [1.0, 1.0, 1.0, 0.0], 0)["points"] == 25.0
    assert paired([1.0, 1.0, 1.0, 0.0], [1.0] * 4, 0)["points"] == -25.0


def test_the_interval_is_that_of_the_normal_approximation_where_questions_are_many() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(2000) < 0.7, rng.random(2000) < 0.6
    found = paired(first, second, 0)
    differences = first.astype(float) - second.astype(float)
    half = 100 * 1.96 * differences.std() / np.sqrt(len(differences))
    assert found["ci95"] == pytest.approx([found["points"] - half, found["points"] + half], abs=0.15)


def test_pairing_cancels_what_both_find_hard() -> None:
    hard = np.random.default_rng(2).random(400) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:20]] = True
    found, alone = paired(better, hard, 0), estimate(better, 0)
    assert found["points"] == 5.0
    assert found["ci95"][0] > 2.5  # the accuracies themselves are known to 5 points only
    assert found["ci95"][1] - found["ci95"][0] < (alone["ci95"][1] - alone["ci95"][0]) / 2


def test_an_accuracy_is_in_percent_and_the_same_under_the_same_seed() -> None:
    right = [1.0, 0.0, 0.0, 0.0]
    assert estimate(right, 3)["points"] == 25.0
    assert estimate(right, 3) == estimate(right, 3)
    assert estimate([1.0] * 10, 0) == {"points": 100.0, "ci95": [100.0, 100.0]}


def test_intervals_of_no_difference_hold_zero_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for turn in range(60):
        first, second = rng.random(80) < 0.5, rng.random(80) < 0.5
        low, high = paired(first, second, turn)["ci95"]
        held += low <= 0 <= high
    assert 51 <= held <= 60
    assert RESAMPLES >= 1000
