from __future__ import annotations

import json

import pytest

from symmoe.errors import RequestError
from symmoe.wire.sampling import schema_of


@pytest.mark.parametrize("asked", [None, {"type": "text"}])
def test_plain_text_has_no_schema(asked: dict[str, object] | None) -> None:
    assert schema_of(asked) is None


def test_any_object_and_a_schema_of_the_client_s_own_are_schemas() -> None:
    own = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "own", "schema": own, "strict": True}}
    assert json.loads(schema_of({"type": "json_object"}) or "") == {"type": "object"}
    assert json.loads(schema_of(named) or "") == own


def test_equal_schemas_are_one_however_they_are_ordered() -> None:
    first, second = ({"type": "object", "title": "x"}, {"title": "x", "type": "object"})
    forms = [{"type": "json_schema", "json_schema": {"name": "s", "schema": schema}} for schema in (first, second)]
    assert schema_of(forms[0]) == schema_of(forms[1])


def test_an_enormous_schema_is_refused() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["x" * 20_000]}}}
    with pytest.raises(RequestError, match="16384 is the most"):
        schema_of(form)
