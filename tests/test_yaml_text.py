"""YAML is read as PyYAML itself reads it, only faster, and what nests without end ends no process."""

from __future__ import annotations

import pytest
import yaml

from symmoe.yaml_text import load_yaml, load_yamls


@pytest.mark.parametrize(
    "text", ["a: 1\nb: [x, {y: 2.5}]\n", "", "- null\n- ~\n- yes\n", '%YAML 1.3\n---\na: "\\ud83d"\n']
)
def test_a_document_is_what_pyyaml_makes_of_it(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yamls(text) == list(yaml.safe_load_all(text))


def test_several_documents_come_in_their_order() -> None:
    assert load_yamls("a: 1\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "text", ["[" * 60_000, "[\n" * 60_000, "- " * 60_000 + "1", "? " * 60_000, "a: " + "{a: " * 60_000]
)
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_a_fault_is_told_with_its_line() -> None:
    with pytest.raises(yaml.YAMLError, match="line 2"):
        load_yaml("name: p\nexperts: [")
