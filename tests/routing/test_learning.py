from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from symmoe.routing.learning import DUPLICATE, EXAMPLES, LEAST_QUESTIONS, LEAST_SKILLS, learn_taxonomy
from symmoe.routing.taxonomy import read_taxonomy, write_taxonomy
from symmoe.types import Skill
from tests.routing.strategies import CODE, NUMBER

CATS = [f"Do cats purr loudly when house {n} is cold?" for n in range(20)]
SHIPS = [f"Which ships crossed the ocean in year {n}?" for n in range(20)]


def around(*directions: tuple[float, ...], each: int = 20, noise: float = 0.05, seed: int = 0) -> NDArray[np.float32]:
    """`each` unit rows near every direction."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.array(directions), each, axis=0)
    rows = rows + noise * rng.standard_normal(rows.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


APART = around((1, 0, 0), (0, 1, 0))


def learned(forms: list[str] | None = None, vectors: NDArray[np.float32] = APART, **options: object) -> list[Skill]:
    texts = [*CATS, *SHIPS]
    return list(learn_taxonomy(texts, vectors, forms or [NUMBER] * 40, 0, per_skill=20, **options))  # type: ignore[arg-type]


def test_each_cluster_of_questions_becomes_a_skill_named_by_the_words_that_set_it_apart() -> None:
    skills = learned()
    cats, ships = sorted(skills, key=lambda skill: "ships" in skill.description)
    assert set(cats.name.split()) <= {"cats", "purr", "loudly", "house", "cold"}
    assert set(ships.name.split()) <= {"ships", "crossed", "ocean", "year"}
    assert len(skills) == 2


def test_a_skill_is_exemplified_by_the_questions_nearest_to_its_centre() -> None:
    by_cosine = [CATS[i] for i in np.argsort(-(APART[:20] @ APART[:20].mean(axis=0)), kind="stable")]
    (cats,) = (skill for skill in learned() if skill.examples[0] in CATS)
    assert cats.examples == tuple(by_cosine[:EXAMPLES])


def test_a_skill_is_named_by_the_keywords_that_most_of_its_questions_were_given() -> None:
    keywords = [["pets", "animals"]] * 19 + [["rare"]] + [["navigation"]] * 20
    by_name = {skill.name: skill for skill in learned(keywords=keywords)}
    assert set(by_name) == {"pets animals", "navigation"}
    assert by_name["pets animals"].description.startswith("pets, animals, rare, ")


def test_skills_of_the_same_keywords_are_told_apart_by_a_number() -> None:
    assert sorted(skill.name for skill in learned(keywords=[["same"]] * 40)) == ["same", "same 2"]


def test_questions_are_clustered_within_each_format_and_carry_it_as_their_facet() -> None:
    skills = learned(forms=[NUMBER] * 20 + [CODE] * 20)
    assert {(skill.facet, skill.examples[0] in CATS) for skill in skills} == {(NUMBER, True), (CODE, False)}


def test_topics_whose_centres_nearly_coincide_become_one() -> None:
    nearly = around((1, 0, 0), (1, 0.2, 0), noise=0.005)
    assert nearly[:20].mean(axis=0) @ nearly[20:].mean(axis=0) > DUPLICATE
    assert len(learned(vectors=nearly)) == 1
    assert len(learned(vectors=around((1, 0, 0), (1, 0.6, 0), noise=0.005))) == 2


def test_too_few_questions_for_two_topics_make_one() -> None:
    few = 2 * LEAST_QUESTIONS - 1
    skills = learn_taxonomy(CATS[:few], around((1, 0), (0, 1))[13 : 13 + few], [NUMBER] * few, 0, per_skill=1)
    assert len(skills) == 1


def test_as_many_topics_are_learned_as_there_are_questions_for() -> None:
    directions = tuple(map(tuple, np.eye(6).tolist()))
    words = ("apple", "bread", "cheese", "dates", "endive", "figs")
    texts = [f"{word} {n}" for word in words for n in range(25)]
    vectors = around(*directions, each=25)
    assert len(learn_taxonomy(texts, vectors, [NUMBER] * 150, 0, per_skill=25)) == 6
    assert len(learn_taxonomy(texts, vectors, [NUMBER] * 150, 0, per_skill=30)) == 5


def test_a_facet_gets_a_few_topics_however_many_questions_are_asked_of_each() -> None:
    texts = [f"{word} {n}" for word in ("apple", "bread", "cheese", "dates") for n in range(25)]
    vectors = around(*map(tuple, np.eye(4).tolist()), each=25)
    assert len(learn_taxonomy(texts, vectors, [NUMBER] * 100, 0, per_skill=1000)) == LEAST_SKILLS


def test_the_same_questions_and_seed_give_the_same_skills() -> None:
    assert learned() == learned()


def test_a_cluster_without_distinctive_words_is_named_by_its_format() -> None:
    (skill,) = learn_taxonomy(["1 + 1", "2 + 2"], around((1, 0), each=2), [NUMBER] * 2, 0)
    assert skill.name == "format number"


def test_a_long_question_is_cut_where_it_is_an_example() -> None:
    (skill,) = learn_taxonomy(["word " * 500], around((1, 0), each=1), [NUMBER], 0)
    assert len(skill.examples[0]) == 400


@settings(max_examples=15)
@given(st.integers(0, 99), st.integers(1, 60), st.integers(8, 30), st.sampled_from(["word", "是中文", "w" * 60, "1"]))
def test_learned_taxonomies_can_be_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, per_skill: int, word: str
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((size, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"{word} {'abcdefg'[n % 7] * 3} {n}" for n in range(size)]
    forms = [(NUMBER, CODE)[n % 2] for n in range(size)]
    skills = learn_taxonomy(texts, vectors, forms, seed, per_skill=per_skill)
    path = tmp_path_factory.getbasetemp() / "learned.yaml"
    write_taxonomy(path, skills, "learned")
    assert read_taxonomy(path) == skills
    assert all(skill.facet in forms and 0 < len(skill.examples) <= EXAMPLES for skill in skills)
    assert all(set(skill.examples) <= set(texts) for skill in skills)
