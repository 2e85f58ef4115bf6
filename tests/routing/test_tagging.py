from __future__ import annotations

import pytest

from symmoe.routing.tagging import EmbeddingTagger, tag
from symmoe.types import Skill
from tests.fakes import WordEmbedder, query

TAXONOMY = (
    Skill("red", "red things", ("like blood red",)),
    Skill("blue", "blue things"),
    Skill("green", "green things", ("grass green", "green green leaf")),
)


def tagger(most: int = 3, least: float = 0.1, within: float = 1.0) -> tuple[EmbeddingTagger, WordEmbedder]:
    embedder = WordEmbedder("red", "blue", "green")
    return EmbeddingTagger(embedder, TAXONOMY, most, least, within), embedder


def names(text: str, **settings: float) -> list[str]:
    part, _ = tagger(**settings)  # type: ignore[arg-type]
    return [match.skill for match in part.tag([query(text)])[0].matches]


def test_skills_come_best_first() -> None:
    part, _ = tagger()
    (found,) = part.tag([query("blue blue blue red red green")])
    assert [match.skill for match in found.matches] == ["blue", "red", "green"]
    assert [match.similarity for match in found.matches] == pytest.approx([0.8018, 0.5345, 0.2673], abs=1e-4)


def test_no_more_skills_are_named_than_asked_for() -> None:
    assert names("blue blue blue red red green", most=2) == ["blue", "red"]


def test_skills_below_the_threshold_are_left_out() -> None:
    assert names("blue blue blue red red green", least=0.5) == ["blue", "red"]


def test_skills_that_trail_the_nearest_by_too_much_are_left_out() -> None:
    assert names("blue blue blue red red green", within=0.3) == ["blue", "red"]
    assert names("blue blue blue red red green", within=0.1) == ["blue"]


def test_a_question_that_nothing_comes_near_needs_no_skill() -> None:
    assert names("what is the time") == []


def test_skills_as_near_as_each_other_keep_the_order_of_the_taxonomy() -> None:
    assert names("green red") == ["red", "green"]


def test_a_skill_is_as_near_as_the_nearest_of_its_description_and_its_examples() -> None:
    part = EmbeddingTagger(WordEmbedder("sum", "tree"), (Skill("a", "tree", ("sum",)), Skill("b", "no word")), 2, 0.1)
    for text in ("a sum", "a tree"):
        (found,) = part.tag([query(text)])
        assert [(match.skill, match.similarity) for match in found.matches] == [("a", 1.0)]


def test_every_query_gets_its_own_skills_in_the_order_asked() -> None:
    part, _ = tagger()
    found = part.tag([query("red", "1"), query("nothing", "2"), query("red", "3"), query("green", "4")])
    assert [(s.query_id, [m.skill for m in s.matches]) for s in found] == [
        ("1", ["red"]), ("2", []), ("3", ["red"]), ("4", ["green"]),
    ]  # fmt: skip


def test_equal_texts_are_embedded_once_and_the_taxonomy_once_for_all() -> None:
    part, embedder = tagger()
    part.tag([query("red", "1"), query("red", "2")])
    part.tag([query("blue", "3")])
    assert embedder.asked.count("red") == 1
    assert embedder.asked.count("grass green") == 1


def test_nothing_is_embedded_for_no_queries() -> None:
    part, embedder = tagger()
    assert tag(part, []) == []
    assert embedder.asked == []
