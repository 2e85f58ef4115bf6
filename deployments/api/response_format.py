"""What `response_format` asks for, as a JSON schema."""

from __future__ import annotations

import json
from typing import Any

from symmoe.engines.grammars import depth_of
from symmoe.limits import SCHEMA_CHARACTERS, SCHEMA_DEPTH

from ..errors import ApiError

_ANY_OBJECT = {"type": "object"}
_SHAPES = 'text, json_object, or json_schema with {"json_schema": {"name": ..., "schema": {...}}}'


def schema_of(asked: dict[str, Any] | None) -> str | None:
    """The schema, as JSON, that an answer must follow; None for plain text. Raises `ApiError`."""
    if asked is None or asked == {"type": "text"}:
        return None
    schema = _ANY_OBJECT if asked == {"type": "json_object"} else _given(asked)
    if not isinstance(schema, dict):
        raise ApiError(400, "invalid_value", f"response_format is not one of {_SHAPES}", "response_format")
    if depth_of(schema) > SCHEMA_DEPTH:
        message = f"response_format: lists and objects of the schema lie more than {SCHEMA_DEPTH} deep"
        raise ApiError(400, "invalid_value", message, "response_format")
    text = json.dumps(schema, sort_keys=True)
    if len(text) > SCHEMA_CHARACTERS:
        message = f"response_format: the schema is of {len(text)} characters, and {SCHEMA_CHARACTERS} is the most"
        raise ApiError(400, "invalid_value", message, "response_format")
    return text


def _given(asked: dict[str, Any]) -> Any:
    if set(asked) != {"type", "json_schema"} or asked["type"] != "json_schema":
        return None
    told = asked["json_schema"]
    return told.get("schema") if isinstance(told, dict) and isinstance(told.get("name"), str) else None
