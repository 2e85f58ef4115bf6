"""Operations and merges on manifests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import ConfigError
from symmoe.manifests.patching import apply_operations, merge

DOCUMENT = {"spec": {"items": [{"name": "a"}, {"name": "b"}], "a/b": 1}}
TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda below: st.dictionaries(st.text(min_size=1, max_size=3), below, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("operation", "items"),
    [
        ({"op": "add", "path": "/spec/items/-", "value": 3}, [{"name": "a"}, {"name": "b"}, 3]),
        ({"op": "add", "path": "/spec/items/0", "value": 3}, [3, {"name": "a"}, {"name": "b"}]),
        ({"op": "replace", "path": "/spec/items/1/name", "value": "c"}, [{"name": "a"}, {"name": "c"}]),
        ({"op": "remove", "path": "/spec/items/0"}, [{"name": "b"}]),
    ],
)
def test_operations_on_lists(operation: dict[str, Any], items: list[Any]) -> None:
    assert apply_operations(DOCUMENT, [operation], "here")["spec"]["items"] == items
    assert DOCUMENT["spec"]["items"] == [{"name": "a"}, {"name": "b"}]


def test_slashes_in_names_are_spelt_as_the_standard_says() -> None:
    changed = apply_operations(DOCUMENT, [{"op": "replace", "path": "/spec/a~1b", "value": 2}], "here")
    assert changed["spec"]["a/b"] == 2


@pytest.mark.parametrize("path", ["/spec/none", "/spec/items/7", "/none/below", "/spec/items/x"])
def test_a_place_that_is_not_there_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(ConfigError, match=f"here: replace {path}"):
        apply_operations(DOCUMENT, [{"op": "replace", "path": path, "value": 0}], "here")


@given(TREES.filter(lambda tree: isinstance(tree, dict)), TREES.filter(lambda tree: isinstance(tree, dict)))
def test_merging_is_idempotent_and_keeps_what_is_not_named(document: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge(document, patch, "here")
    assert merge(once, patch, "here") == once
    assert {key: once[key] for key in document if key not in patch} == {
        key: value for key, value in document.items() if key not in patch
    }


def test_a_null_takes_a_key_out_and_a_list_is_refused() -> None:
    assert merge({"a": 1, "b": 2}, {"a": None}, "here") == {"b": 2}
    with pytest.raises(ConfigError, match="here: a is a list"):
        merge({}, {"a": []}, "here")
