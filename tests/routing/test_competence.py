"""What is learned from recorded questions, on made-up pools whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from symmoe.routing.competence import LEAST_QUESTIONS, Competence, earned_of, place, places_of, quantised
from symmoe.routing.profiles import build_profile, complete, identity, merge, recorded
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.types import ExpertProfile, Profiles, Skills, Tally
from tests.fakes import query
from tests.routing.strategies import asked_alone, experts_of

NUMBER, CHOICE, OPEN = "format: number", "format: multiple choice", "format: open answer"
SIZE = 24
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


def near(axis: int, count: int, seed: int = 0) -> Floats:
    """Unit vectors scattered about one axis."""
    rng = np.random.default_rng([seed, axis])
    rows = np.eye(SIZE)[axis] + 0.08 * rng.standard_normal((count, SIZE))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def drawn(chances: Sequence[float], count: int, seed: int = 0) -> Doubles:
    """Right (1) and wrong (0) answers of experts with these chances, `[count, experts]`."""
    return (np.random.default_rng(seed).random((count, len(chances))) < np.array(chances)).astype(np.float64)


def learned(*groups: tuple[str, int, Sequence[float], int], formats: Sequence[str] = (), seed: int = 0) -> Competence:
    """Learned from groups of `(name, axis, chances, questions)`, of the answer formats given, else of open ones."""
    vectors = np.concatenate([near(axis, count) for _, axis, _, count in groups])
    names = [name for name, _, _, count in groups for _ in range(count)]
    forms = [form for form, group in zip(formats or [OPEN] * len(groups), groups, strict=True) for _ in range(group[3])]
    earned = np.concatenate([drawn(chances, count, seed + n) for n, (_, _, chances, count) in enumerate(groups)])
    return Competence(place(vectors, names, forms), earned)


def values(competence: Competence, axis: int, form: str = OPEN) -> Floats:
    """Expected accuracies, mean over new questions about an axis."""
    vectors = near(axis, 20, seed=9)
    return np.asarray(competence.expected(vectors, [form] * len(vectors)).accuracies.mean(axis=0))


TWO = (("algebra", 0, (0.9, 0.3), 150), ("botany", 1, (0.3, 0.9), 150))


def test_each_expert_is_expected_to_do_as_well_as_it_did_on_questions_alike() -> None:
    found = learned(*TWO)
    assert values(found, 0) == pytest.approx([0.9, 0.3], abs=0.1)
    assert values(found, 1) == pytest.approx([0.3, 0.9], abs=0.1)


def test_far_from_all_records_groups_count_alike_whatever_their_size() -> None:
    many = learned(("algebra", 0, (0.9, 0.5), 600), ("botany", 1, (0.2, 0.8), 60), ("crafts", 2, (0.2, 0.8), 60))
    assert many.expected(near(7, 20), [OPEN] * 20).known.max() == 0
    first, second = values(many, 7)
    assert second > first  # it is better in two groups of three, though worse on most questions


def test_a_group_says_nothing_of_answer_formats_that_none_of_its_questions_asked_for() -> None:
    found = learned(*TWO, formats=(CHOICE, OPEN))
    assert found.expected(near(0, 20), [CHOICE] * 20).known.min() > 0.9
    assert found.expected(near(0, 20), [NUMBER] * 20).known.max() == 0
    assert found.expected(near(0, 20), [OPEN] * 20).known.min() > 0.9  # a question that shows no format may be any


def test_what_is_hard_for_all_speaks_against_nobody() -> None:
    """An expert asked only hard questions, and better at them than the others, is expected to be better elsewhere."""
    hard, easy = drawn((0.2, 0.1, 0.3), 150, seed=1), drawn((0.9, 0.8, 0.0), 150, seed=2)
    easy[:, 2] = np.nan
    vectors = np.concatenate([near(0, 300)])
    found = Competence(place(vectors, ["all"] * 300, [OPEN] * 300), np.concatenate([hard, easy]))
    first, _, third = values(found, 0)
    assert third > first


def test_topics_within_one_group_are_told_apart_where_experts_differ_on_them() -> None:
    vectors = np.concatenate([near(0, 160), near(1, 160), near(2, 40)])
    earned = np.concatenate([drawn((0.9, 0.2), 160), drawn((0.2, 0.9), 160), drawn((0.5, 0.5), 40)])
    found = Competence(place(vectors, ["mixed"] * 320 + ["other"] * 40, [OPEN] * 360), earned)
    assert values(found, 0).argmax() == 0
    assert values(found, 1).argmax() == 1


def test_expected_accuracies_are_calibrated() -> None:
    chances = ((0.8, 0.5, 0.3), (0.3, 0.6, 0.7), (0.5, 0.5, 0.5))
    found = learned(*((f"g{n}", n, row, 200) for n, row in enumerate(chances)))
    for axis, row in enumerate(chances):
        assert values(found, axis) == pytest.approx(row, abs=0.08)


def test_an_expert_asked_little_is_expected_to_be_about_average() -> None:
    earned = drawn((0.7, 0.5, 0.0), 200)
    earned[:, 2] = np.nan
    earned[:2, 2] = 1.0
    found = Competence(place(near(0, 200), ["a", "b"] * 100, [OPEN] * 200), earned)
    assert found.known.all()
    assert 0.5 < values(found, 0)[2] < 0.85


@given(st.integers(0, 2**32 - 1))
def test_a_quantised_vector_keeps_its_direction(seed: int) -> None:
    vector = np.random.default_rng(seed).standard_normal(384).astype(np.float32)
    back = np.frombuffer(quantised(vector), dtype=np.int8).astype(np.float64)
    cosine = back @ vector / np.linalg.norm(back) / np.linalg.norm(vector)
    assert cosine > 0.999


def question(axis: int, number: int) -> str:
    return f"question {number} about {axis}"


def skilled(axis: int, count: int, seed: int = 0) -> list[Skills]:
    """What questions about an axis need: no topics, an open answer, and their vectors."""
    return [Skills(str(n), (), (OPEN,), row.tobytes()) for n, row in enumerate(near(axis, count, seed))]


def profiled(count: int = 60) -> Profiles:
    """Two specialists and one expert whose answers nobody kept, only counts."""
    skills = [*skilled(0, count), *skilled(1, count)]
    texts = [question(axis, number) for axis in (0, 1) for number in range(count)]
    idents = [identity(text) for text in texts]
    ones, zeros = [1.0] * count, [0.0] * count
    experts = {
        "first": build_profile("first", skills, ones + zeros, idents=idents),
        "second": build_profile("second", skills, zeros + ones, idents=idents),
        "counted": ExpertProfile("counted", {OPEN: Tally(50, 50)}, Tally(50, 50)),
    }
    groups = ["zero"] * count + ["one"] * count
    return Profiles(experts, {}, questions=recorded(texts, groups, skills), embedder="test")


def test_the_recruiter_asks_the_expert_whose_recorded_questions_are_alike() -> None:
    recruiter = PosteriorRecruiter(profiled())
    for axis, best in ((0, "first"), (1, "second")):
        (needed,) = skilled(axis, 1, seed=3)
        assert experts_of(asked_alone(recruiter, needed, k=1)) == [best]


def test_an_expert_of_whom_only_counts_are_known_is_judged_by_them() -> None:
    (needed,) = skilled(0, 1, seed=3)
    found = dict(asked_alone(PosteriorRecruiter(profiled()), needed).accuracies)
    assert found["counted"] == pytest.approx(0.5, abs=0.02)
    assert found["first"] > 0.9


def test_a_question_that_nobody_embedded_is_judged_by_topics() -> None:
    plain = Skills("q", (), (OPEN,))
    found = dict(asked_alone(PosteriorRecruiter(profiled()), plain).accuracies)
    assert found["first"] == pytest.approx(0.5, abs=0.05)


def test_an_explanation_names_the_groups_and_what_was_earned_in_them() -> None:
    (needed,) = skilled(0, 1, seed=3)
    told = PosteriorRecruiter(profiled()).explain(query("q"), needed, 1, 0)
    assert told.weights["zero"] > 0.9
    best = told.standings[0]
    assert (best.expert, best.evidence["zero"]) == ("first", Tally(60.0, 0.0))
    assert best.low < best.value < best.high or best.value == pytest.approx(best.high)


def test_from_too_few_questions_nothing_is_learned() -> None:
    few = profiled(LEAST_QUESTIONS // 2 - 1)
    assert places_of(few.questions) is None
    (needed,) = skilled(0, 1, seed=3)
    assert asked_alone(PosteriorRecruiter(few), needed).accuracies["first"] < 0.7


def test_places_are_found_once_for_all_that_recruit_among_the_same_questions() -> None:
    known = profiled()
    fewer = complete(known, ["first", "second"])
    assert places_of(known.questions) is places_of(fewer.questions)


def test_merging_adds_what_was_earned_but_never_mixes_embedders() -> None:
    known = profiled()
    half = {ident: score for n, (ident, score) in enumerate(known.experts["first"].earned.items()) if n % 2}
    assert merge(known, known).questions == known.questions
    assert not np.isnan(earned_of(merge(known, known))[:, 0]).any()
    other = Profiles({}, {}, questions=dict(list(known.questions.items())[: len(half)]), embedder="another")
    assert len(merge(known, other).questions) == len(half)
