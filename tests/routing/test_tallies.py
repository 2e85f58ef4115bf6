from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta

from symmoe.routing.learning import DUPLICATE, EXAMPLES, LEAST_QUESTIONS, LEAST_SKILLS, learn_taxonomy
from symmoe.routing.tallies import TOPIC_STRENGTH, _levels, interval, posterior_of, tallies_of
from symmoe.routing.taxonomy import read_taxonomy, write_taxonomy
from symmoe.types import Profiles, Skill, Tally
from tests.routing.strategies import CODE, NUMBER, NUMBER_IN_ENGLISH, pool, profiles_of, record

LEAST, MOST = TOPIC_STRENGTH


def mean_of(profiles: Profiles, skill: str, expert: int = 0) -> float:
    posterior = posterior_of(tallies_of(profiles))
    return float(posterior.mean[posterior.rows[skill], expert])


def worth_of(profiles: Profiles, skill: str) -> float:
    posterior = posterior_of(tallies_of(profiles))
    return float(posterior.worth[posterior.rows[skill]])


def topic_strength_of(*topics: tuple[tuple[float, float], ...]) -> float:
    """How many answers a topic's prior counts as, for `(right, wrong)` of each expert on each topic."""
    experts = [
        record(f"e{number}", {f"t{place}": topic[number] for place, topic in enumerate(topics)})
        for number in range(len(topics[0]))
    ]
    return worth_of(pool(*experts), "t0")


def test_tallies_are_counted_for_every_skill_and_expert_with_borrowed_answers_added() -> None:
    first = record("a", {"sums": (3, 1)}, overall=(3, 1))
    second = replace(record("b", {"dates": (1, 1)}, overall=(0, 0)), borrowed={"sums": Tally(2, 0.5)})
    tallies = tallies_of(pool(first, second, parents={"sums": NUMBER}))
    assert (tallies.experts, tallies.skills) == (("a", "b"), ("sums", "dates"))
    assert tallies.right.tolist() == [[3, 2], [0, 1]]
    assert tallies.asked.tolist() == [[4, 2.5], [0, 2]]
    assert tallies.overall.tolist() == [0.75, 0.5]
    assert tallies.topics.tolist() == [True, True]


def test_parents_are_those_on_record_and_the_more_general_facet_of_a_facet() -> None:
    tallies = tallies_of(
        pool(
            record("a", {"sums": (1, 0), "chess": (1, 0), NUMBER_IN_ENGLISH: (1, 0), NUMBER: (1, 0), CODE: (1, 0)}),
            parents={"sums": NUMBER_IN_ENGLISH, "chess": "format: open answer"},
        )
    )
    names = (*tallies.skills, None)
    parents = {skill: names[row] for skill, row in zip(tallies.skills, tallies.parents, strict=True)}
    assert parents == {"sums": NUMBER_IN_ENGLISH, "chess": None, NUMBER_IN_ENGLISH: NUMBER, NUMBER: None, CODE: None}


def test_each_posterior_is_the_prior_of_the_next_more_specific_skill() -> None:
    profiles = pool(
        record("a", {"sums": (1, 3), NUMBER_IN_ENGLISH: (12, 8), NUMBER: (30, 10)}, overall=(31, 13)),
        parents={"sums": NUMBER_IN_ENGLISH},
    )
    # anywhere: the one format's accuracy, one answer of the overall accuracy 31/44 added: 30.704545 / 41 = 0.74889
    # number: (30 + 50 · 0.74889) / 90 = 0.74938; in english: (12 + 50 · 0.74938) / 70 = 0.70670
    # sums, whose prior counts as one answer where no spread can be estimated: (1 + 0.70670) / 5 = 0.34134
    posterior = posterior_of(tallies_of(profiles))
    assert posterior.anywhere.tolist() == pytest.approx([0.74889], abs=1e-5)
    assert mean_of(profiles, NUMBER) == pytest.approx(0.74938, abs=1e-5)
    assert mean_of(profiles, NUMBER_IN_ENGLISH) == pytest.approx(0.70670, abs=1e-5)
    assert mean_of(profiles, "sums") == pytest.approx(0.34134, abs=1e-5)
    worth = {skill: float(posterior.worth[row]) for skill, row in posterior.rows.items()}
    assert worth == {"sums": 1, NUMBER_IN_ENGLISH: 50, NUMBER: 50}


def test_a_format_counts_by_its_reliability_and_not_by_its_size() -> None:
    # 0 of 50 and 950 of 950 right, 0.95 over all: (0 + 0.95) / 51 = 0.01863 and (950 + 0.95) / 951 = 0.99995
    # reliabilities 50 / 100 = 0.5 and 950 / 1000 = 0.95: (0.5 · 0.01863 + 0.95 · 0.99995) / 1.45 = 0.66156
    profiles = pool(record("a", {CODE: (0, 50), NUMBER: (950, 0)}))
    assert posterior_of(tallies_of(profiles)).anywhere.tolist() == pytest.approx([0.66156], abs=1e-4)


def test_without_formats_on_record_the_accuracy_expected_anywhere_is_the_overall_one() -> None:
    experts = record("a", {"sums": (1, 3)}), record("b", {}), record("c", {"language: english": (9, 1)})
    assert posterior_of(tallies_of(pool(*experts))).anywhere.tolist() == pytest.approx([0.25, 0.5, 0.9])


def test_an_expert_never_asked_in_any_format_is_expected_to_be_as_good_as_overall() -> None:
    experts = record("a", {NUMBER: (5, 5)}), record("b", {}, overall=(8, 2))
    assert posterior_of(tallies_of(pool(*experts))).anywhere[1] == pytest.approx(0.8)


def test_few_answers_leave_a_posterior_near_its_prior_and_many_decide_it() -> None:
    few = pool(record("a", {NUMBER: (500, 0), NUMBER_IN_ENGLISH: (0, 2)}))
    many = pool(record("a", {NUMBER: (500, 0), NUMBER_IN_ENGLISH: (0, 2000)}))
    assert mean_of(few, NUMBER_IN_ENGLISH) > 0.94
    assert mean_of(many, NUMBER_IN_ENGLISH) < 0.03


def test_thousands_of_topics_are_pooled_as_each_would_be() -> None:
    topics = {f"t{n}": (float(n % 7), float(n % 5)) for n in range(5000)}
    profiles = pool(record("a", {**topics, NUMBER: (30, 10)}), parents=dict.fromkeys(topics, NUMBER))
    prior = mean_of(profiles, NUMBER)
    posterior = posterior_of(tallies_of(profiles))
    for skill in ("t0", "t2047", "t2048", "t4999"):
        right, wrong = topics[skill]
        by_hand = (right + LEAST * prior) / (right + wrong + LEAST)
        assert posterior.mean[posterior.rows[skill], 0] == pytest.approx(by_hand, abs=1e-5)


@settings(max_examples=30)
@given(profiles_of())
def test_a_posterior_lies_between_its_prior_and_what_was_counted(profiles: Profiles) -> None:
    tallies = tallies_of(profiles)
    posterior = posterior_of(tallies)
    for row, parent in enumerate(tallies.parents):
        prior = posterior.mean[parent] if parent >= 0 else posterior.anywhere
        counted = np.where(tallies.asked[row] > 0, tallies.right[row] / np.maximum(tallies.asked[row], 0.5), prior)
        assert (posterior.mean[row] >= np.minimum(prior, counted) - 1e-5).all()
        assert (posterior.mean[row] <= np.maximum(prior, counted) + 1e-5).all()
    assert (posterior.worth >= LEAST).all()


def test_profiles_without_any_skill_have_an_empty_posterior() -> None:
    posterior = posterior_of(tallies_of(pool(record("a", {}), record("b", {}))))
    assert posterior.mean.shape == (1, 2)
    assert posterior.anywhere.tolist() == [0.5, 0.5]


def test_topics_on_which_experts_differ_by_the_same_are_believed_least() -> None:
    assert topic_strength_of(*[((7, 3), (4, 6))] * 6) == pytest.approx(MOST)


def test_topics_on_which_experts_trade_places_are_believed_most() -> None:
    one_way, other_way = ((95, 5), (5, 95)), ((5, 95), (95, 5))
    assert topic_strength_of(one_way, other_way, one_way, other_way) == pytest.approx(LEAST)


def test_a_topic_that_is_hard_for_all_tells_nothing_about_any() -> None:
    easy, hard = ((900, 100), (700, 300)), ((300, 700), (100, 900))
    assert topic_strength_of(easy, hard, easy, hard) == pytest.approx(MOST)


def test_the_strength_of_topics_is_the_noise_of_an_answer_over_the_spread_between_topics() -> None:
    # accuracies 0.6 and 0.4 or the reverse, 100 answers each: an answer's variance is 0.24, half of it common
    # the edges are ±0.1 and their mean 0, so 4 topics spread 4 · 100 · 0.01 = 4 on 3 degrees of freedom
    # between = (4 − 3 · 0.12) / (400 − 100) = 0.012133; 0.12 / 0.012133 = 9.89
    one_way, other_way = ((60, 40), (40, 60)), ((40, 60), (60, 40))
    assert topic_strength_of(one_way, other_way, one_way, other_way) == pytest.approx(9.8901, abs=1e-3)


def test_topics_are_compared_only_with_those_of_the_same_parent() -> None:
    one_way, other_way = ((60, 40), (40, 60)), ((40, 60), (60, 40))
    parents = {"t0": NUMBER, "t1": NUMBER, "t2": CODE, "t3": CODE}
    experts = [
        record(name, {NUMBER: (5, 5), CODE: (5, 5), **{f"t{place}": pair for place, pair in enumerate(pairs)}})
        for name, pairs in (
            ("a", [one_way[0], one_way[0], other_way[0], other_way[0]]),
            ("b", [one_way[1], one_way[1], other_way[1], other_way[1]]),
        )
    ]
    assert worth_of(pool(*experts, parents=parents), "t0") == pytest.approx(MOST)


@pytest.mark.parametrize(("experts", "topics"), [(2, 3), (3, 7), (5, 3), (6, 7)])
def test_experts_that_are_always_right_or_always_wrong_are_alike_on_all_topics(experts: int, topics: int) -> None:
    one_right = ((10, 0), *[(0, 10)] * (experts - 1))
    assert topic_strength_of(*[one_right] * topics) == pytest.approx(MOST)


@pytest.mark.parametrize("topics", [[((3, 4), (4, 3))], [((3, 4),), ((4, 3),)]], ids=["one topic", "one expert"])
def test_a_spread_that_cannot_be_estimated_is_taken_to_be_large(topics: list[tuple[tuple[float, float], ...]]) -> None:
    assert topic_strength_of(*topics) == pytest.approx(LEAST)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=3, max_size=3), min_size=1).map(
        lambda topics: [tuple(topic) for topic in topics]
    )
)
def test_the_strength_of_topics_stays_within_its_bounds(topics: list[tuple[tuple[float, float], ...]]) -> None:
    assert LEAST - 1e-3 <= topic_strength_of(*topics) <= MOST + 1e-3


def test_an_interval_is_the_central_one_of_a_beta_distribution() -> None:
    assert interval(0.7, 40) == pytest.approx(beta(28, 12).interval(0.95))
    assert interval(0.2, 5, level=0.5) == pytest.approx(beta(1, 4).interval(0.5))


@given(st.floats(0, 1), st.floats(1, 1e6))
def test_an_interval_holds_the_mean_and_stays_within_zero_and_one(mean: float, strength: float) -> None:
    low, high = interval(mean, strength)
    assert 0 <= low <= mean <= high <= 1


def test_parents_stand_on_a_level_before_their_children() -> None:
    # 0 ← 2 ← 1 ← 4, and 3 alone
    levels = _levels(np.array([-1, 2, 0, -1, 1], dtype=np.int32))
    assert [level.tolist() for level in levels] == [[0, 3], [2], [1], [4]]
    assert _levels(np.array([], dtype=np.int32)) == []


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
