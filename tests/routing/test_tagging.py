from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.errors import PoolError
from symmoe.routing.facets import facets_of
from symmoe.routing.keywords import LONGEST, MOST_KEYWORDS, PASSES, annotation_queries, keywords_of, read_keywords
from symmoe.routing.tagging import FOREIGN, EmbeddingTagger, tag
from symmoe.routing.taxonomy import read_taxonomy, write_taxonomy
from symmoe.types import Skill, SkillMatch
from tests.fakes import WordEmbedder, query
from tests.routing.strategies import NUMBER, NUMBER_IN_ENGLISH, NUMBERS

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


def matches(text: str, *taxonomy: Skill, most: int = 9) -> tuple[SkillMatch, ...]:
    part = EmbeddingTagger(WordEmbedder("red", "blue", "green"), taxonomy, most, least=0.05, within=1.0)
    return part.tag([query(text)])[0].matches


def test_skills_come_best_first() -> None:
    part, _ = tagger()
    (found,) = part.tag([query("blue blue blue red red green")])
    assert [match.skill for match in found.matches] == ["blue", "red", "green"]
    assert [match.similarity for match in found.matches] == pytest.approx([0.8018, 0.5345, 0.2673], abs=1e-4)


def test_skills_hold_the_vector_that_the_question_was_embedded_as() -> None:
    part, embedder = tagger()
    first, second = part.tag([query("blue red", "1"), query("green", "2")])
    assert first.vector == embedder.embed(["blue red"])[0].astype(np.float32).tobytes()
    assert second.vector == embedder.embed(["green"])[0].astype(np.float32).tobytes()


def test_no_more_skills_are_named_than_asked_for() -> None:
    assert names("blue blue blue red red green", most=2) == ["blue", "red"]


def test_more_skills_may_be_asked_for_than_there_are() -> None:
    assert names("blue blue blue red red green", most=20) == ["blue", "red", "green"]


def test_skills_below_the_threshold_are_left_out() -> None:
    assert names("blue blue blue red red green", least=0.5) == ["blue", "red"]


def test_skills_that_trail_the_nearest_by_too_much_are_left_out() -> None:
    assert names("blue blue blue red red green", within=0.3) == ["blue", "red"]
    assert names("blue blue blue red red green", within=0.1) == ["blue"]


def test_a_question_that_nothing_comes_near_needs_no_topic_but_has_its_facets() -> None:
    part, _ = tagger()
    (found,) = part.tag([query("what is the time")])
    assert found.matches == ()
    assert found.facets == facets_of("what is the time")


def test_skills_as_near_as_each_other_keep_the_order_of_the_taxonomy() -> None:
    assert names("green red") == ["red", "green"]


@given(st.lists(st.sampled_from(["red", "blue"]), min_size=2, max_size=12), st.integers(1, 5))
def test_where_more_skills_are_equally_near_than_asked_for_those_that_stand_first_are_kept(
    words: list[str], most: int
) -> None:
    taxonomy = [Skill(f"{place:02}", word) for place, word in enumerate(words)]
    found = matches("red", *taxonomy, most=most)
    assert [m.skill for m in found] == [skill.name for skill in taxonomy if skill.description == "red"][:most]


def test_a_skill_is_as_near_as_the_mean_of_its_description_and_its_examples() -> None:
    # phrasings at red, blue and blue: their mean points to (1, 2) / √5
    mixed = Skill("mixed", "red", ("blue", "blue"))
    (of_red,) = matches("red", mixed)
    (of_blue,) = matches("blue", mixed)
    assert of_red.similarity == pytest.approx(1 / 5**0.5, abs=1e-4)
    assert of_blue.similarity == pytest.approx(2 / 5**0.5, abs=1e-4)


def test_the_name_of_a_skill_counts_with_its_description() -> None:
    (found,) = matches("blue", Skill("blue or so", "red"), Skill("other", "green"))
    assert found == SkillMatch("blue or so", pytest.approx(0.5**0.5, abs=1e-4))


def test_a_skill_of_which_the_embedder_knows_no_word_is_never_near() -> None:
    (found,) = matches("red", Skill("unknown", "xyzzy"), Skill("known", "red"))
    assert found.skill == "known"


def test_a_skill_whose_examples_share_a_facet_that_the_question_lacks_is_farther() -> None:
    asked = "How many red days are there in 3 weeks?"
    assert facets_of(asked) == NUMBERS
    plain, own, own_format, foreign = (
        Skill("plain", "red"),
        Skill("own", "red", facet=NUMBER_IN_ENGLISH),
        Skill("own format", "red", facet=NUMBER),
        Skill("foreign", "red", facet="format: code in english"),
    )
    found = {match.skill: match.similarity for match in matches(asked, foreign, plain, own, own_format)}
    assert found == pytest.approx({"plain": 1.0, "own": 1.0, "own format": 1.0, "foreign": 1 - FOREIGN})
    assert [match.skill for match in matches(asked, foreign, plain, own)] == ["plain", "own", "foreign"]


@pytest.mark.parametrize(("facet", "lost"), [("", 0.0), (NUMBER, 0.0), ("format: code", FOREIGN)])
def test_a_taxonomy_of_one_facet_is_farther_from_the_questions_that_lack_it(facet: str, lost: float) -> None:
    taxonomy = [Skill("a", "red", facet=facet), Skill("b", "blue", facet=facet)]
    (found,) = matches("How many red days are there in 3 weeks?", *taxonomy)
    assert found == SkillMatch("a", pytest.approx(1 - lost))


def test_every_query_gets_its_own_skills_in_the_order_asked() -> None:
    part, _ = tagger()
    found = part.tag([query("red", "1"), query("nothing", "2"), query("red", "3"), query("green", "4")])
    assert [(s.query_id, [m.skill for m in s.matches]) for s in found] == [
        ("1", ["red"]), ("2", []), ("3", ["red"]), ("4", ["green"]),
    ]  # fmt: skip


def test_a_question_is_tagged_alike_alone_and_among_thousands() -> None:
    part, _ = tagger()
    texts = [f"{'red ' * (n % 4)}{'blue ' * (n % 5)}{'green ' * (n % 3)}{n}" for n in range(1, 2500)]
    found = part.tag([query(text, str(n)) for n, text in enumerate(texts)])
    assert len(found) == len(texts)
    for n in (0, 1022, 1023, 1024, 2047, 2048, 2498):
        (alone,) = part.tag([query(texts[n], str(n))])
        assert alone == found[n]


def test_vectors_that_are_known_are_matched_without_embedding_the_questions() -> None:
    part, embedder = tagger()
    first, second = part.topics(np.eye(3, dtype=np.float32)[:2], [(), ()])
    assert ([m.skill for m in first], [m.skill for m in second]) == (["red"], ["blue"])
    assert not {"red", "blue"} & set(embedder.asked)


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


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Algebra, Number theory", ["algebra", "number theory"]),
        ("1. Algebra\n2. Logic\n", ["algebra", "logic"]),
        ("- **Algebra**\n- `Logic`", ["algebra", "logic"]),
        ('"algebra"; logic.', ["algebra", "logic"]),
        ("代数、几何", ["代数", "几何"]),
        ("Skills: algebra, logic", ["logic"]),
        ("a, b, c, d, e, f", ["a", "b", "c", "d", "e"]),
        ("the art of answering at great length, logic", ["logic"]),
        (" ,, \n ,", []),
        ("", []),
    ],
)
def test_keywords_are_read_without_marks_and_numbers(written: str, read: list[str]) -> None:
    assert read_keywords(written) == read


@given(st.text())
def test_whatever_is_written_few_short_keywords_without_a_colon_are_read(text: str) -> None:
    found = read_keywords(text)
    assert len(found) <= MOST_KEYWORDS
    assert all(0 < len(keyword) <= LONGEST and ":" not in keyword for keyword in found)


def test_a_keyword_counts_that_more_than_one_pass_gave_the_commonest_first() -> None:
    passes = ["Logic, algebra", "algebra, sets", "algebra, logic", "poetry, poetry", ""]
    assert keywords_of(passes) == ("algebra", "logic")
    assert keywords_of([]) == ()


def test_a_question_is_asked_about_several_times_each_with_a_seed_of_its_own() -> None:
    queries = annotation_queries(["What is {this}?", "Why?"], seed=7)
    assert [query.id for query in queries] == [f"{n}/{turn}" for n in (0, 1) for turn in range(PASSES)]
    assert [query.sampling.seed for query in queries] == [*range(7, 7 + PASSES)] * 2
    assert "Question: What is {this}?\n" in queries[0].text
    assert all(query.sampling.temperature > 0 for query in queries)
    assert annotation_queries([], seed=0) == []


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
skills = st.builds(
    Skill,
    name=words.filter(lambda name: ":" not in name),
    description=words,
    examples=st.lists(words, max_size=3).map(tuple),
    facet=st.sampled_from(["", "format: number in english", "yes", "1"]),
)


def test_a_taxonomy_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    entries = "- {name: b, description: B, examples: [x, y], facet: 'format: code'}\n- {name: a, description: A}\n"
    path.write_text(f"skills:\n{entries}", "utf-8")
    assert read_taxonomy(path) == (Skill("b", "B", ("x", "y"), "format: code"), Skill("a", "A"))


def test_the_shipped_taxonomies_are_valid() -> None:
    tiny, general = (
        {skill.name for skill in read_taxonomy(Path(str(files("symmoe.skills"))) / name)}
        for name in ("tiny.yaml", "general.yaml")
    )
    assert {"spanish", "roman numerals", "sorting numbers"} <= tiny
    assert {"word problems", "programming", "translation"} <= general


def test_a_written_taxonomy_reads_back_equal_and_says_what_it_is_about(tmp_path: Path) -> None:
    kept = (
        Skill("größer 是", "which is more: 1 or 2? # no comment", ("line\nbreak", " 'quoted' ", "yes"), "format: code"),
        Skill("no", "null"),
    )
    write_taxonomy(tmp_path / "new" / "t.yaml", kept, "learned from:\ntwo files")
    assert read_taxonomy(tmp_path / "new" / "t.yaml") == kept
    assert (tmp_path / "new" / "t.yaml").read_text("utf-8").startswith("# learned from:\n# two files\nskills:\n")


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", "\ufeffa", "a\r\nb", "\t", " ", "- x: [", "\x00\x07"])
def test_characters_with_a_meaning_in_yaml_are_kept(tmp_path: Path, text: str) -> None:
    kept = (Skill("name", text, (text, f"before {text}")),)
    write_taxonomy(tmp_path / "t.yaml", kept, "")
    assert read_taxonomy(tmp_path / "t.yaml") == kept


@settings(max_examples=30)
@given(
    st.lists(skills, min_size=1, max_size=4, unique_by=lambda skill: skill.name), st.text("ab:#-\n\r\x85 ", max_size=9)
)
def test_any_taxonomy_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, kept: list[Skill], about: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    write_taxonomy(path, kept, about)
    assert read_taxonomy(path) == tuple(kept)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("skills: [", "not valid YAML"),
        ("skills: []", "skills: List should have at least 1 item"),
        ("", ": Input should be a valid dictionary"),
        ("skills: [{name: a}]", "skills.0.description: Field required"),
        ("skills: [{name: '', description: A}]", "skills.0.name: "),
        (f"skills: [{{name: {'a' * 41}, description: A}}]", "skills.0.name: "),
        ("skills: [{name: a, description: A, exmples: []}]", "skills.0.exmples: Extra inputs"),
        ("skills: [{name: a, description: A}, {name: a, description: B}]", "a stands there twice"),
    ],
)
def test_a_bad_taxonomy_is_refused_with_the_entry_at_fault(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PoolError) as caught:
        read_taxonomy(path)
    assert str(caught.value).startswith(f"taxonomy {path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["format: number", "a:", ":", "a\n:b"])
def test_a_name_with_a_colon_is_refused_for_it_could_be_a_facets(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"skills: [{{name: {name!r}, description: A}}]".replace("'", '"'), encoding="utf-8")
    with pytest.raises(PoolError, match=r"skills\.0\.name"):
        read_taxonomy(path)
    with pytest.raises(ValueError, match="name"):
        write_taxonomy(tmp_path / "new.yaml", [Skill(name, "A")], "")
    assert not (tmp_path / "new.yaml").exists()


def test_a_missing_taxonomy_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read"):
        read_taxonomy(tmp_path / "none.yaml")


def test_a_taxonomy_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PoolError):
        read_taxonomy(path)
