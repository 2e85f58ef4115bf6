"""What the OpenAPI document says of a body: bodies are read here, not by FastAPI, which would not bound them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """An operation's part of the document for a JSON body. The definitions that a model shares are written out."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """A reference within a model's own schema means nothing within the document."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        beside = {name: value for name, value in part.items() if name != "$ref"}
        return {**_inlined(definitions[part["$ref"].rpartition("/")[2]], definitions), **beside}
    return {name: _inlined(value, definitions) for name, value in part.items()}
