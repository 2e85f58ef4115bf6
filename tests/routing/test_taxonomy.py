from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.errors import PoolError
from symmoe.routing.taxonomy import read_taxonomy, write_taxonomy
from symmoe.types import Skill

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
