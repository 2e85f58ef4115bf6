from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from symmoe.errors import PoolError
from symmoe.routing.taxonomy import read_taxonomy
from symmoe.types import Skill


def test_a_taxonomy_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("skills:\n- {name: b, description: B, examples: [x, y]}\n- {name: a, description: A}\n", "utf-8")
    assert read_taxonomy(path) == (Skill("b", "B", ("x", "y")), Skill("a", "A"))


def test_the_shipped_taxonomy_is_valid() -> None:
    names = {skill.name for skill in read_taxonomy(Path(str(files("symmoe.skills"))) / "general.yaml")}
    assert {"spanish", "roman numerals", "sorting numbers"} <= names


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("skills: [", "not valid YAML"),
        ("skills: []", "skills: List should have at least 1 item"),
        ("", ": Input should be a valid dictionary"),
        ("skills: [{name: a}]", "skills.0.description: Field required"),
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


def test_a_missing_taxonomy_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read"):
        read_taxonomy(tmp_path / "none.yaml")


def test_a_taxonomy_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PoolError):
        read_taxonomy(path)
