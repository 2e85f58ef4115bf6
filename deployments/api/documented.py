"""The OpenAPI document's description of bodies, which are read here and not by FastAPI, to limit their size."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel


@cache
def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body for an operation in the OpenAPI document. A model's shared definitions are inlined.

    It is made once for each model: making those of all bodies takes longer than the rest of a service's start.
    """
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
