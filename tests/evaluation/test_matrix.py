from __future__ import annotations

from symmoe.config import SamplingConfig
from symmoe.engines.echo import EchoEngine
from symmoe.evaluation.matrix import Matrix, run_matrix
from symmoe.loading.lanes import ExpertWeights
from symmoe.pipeline import Watch
from symmoe.types import Load
from tests.fakes import echo_parts, question

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


def test_every_expert_is_asked_every_question_after_one_load_each() -> None:
    engine, loads = EchoEngine(), list[Load]()
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}}, engine=engine)
    watch = Watch(loaded=loads.append)
    found = run_matrix(parts.executor, ["a", "b"], parts.models, QUESTIONS, SamplingConfig(), watch)
    # each echoes its own name, and the answers are those of a
    assert found.right == {"a": (True,) * 4, "b": (False,) * 4}
    assert found.texts == {name: tuple(f"{name}: number {n}" for n in range(4)) for name in "ab"}
    assert [load.expert for load in loads] == ["a", "b"]
    assert (engine.starts, engine.swaps) == (1, 2)
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
