"""The OpenAPI document, where FastAPI cannot know it: bodies, read here to limit their size; and `/docs`, its page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from pydantic import BaseModel

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page runs nothing and fetches nothing."""
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;padding:1rem;border:1px solid #8884}"
    "summary{cursor:pointer;padding:.3rem 0}b{display:inline-block;min-width:4.5rem}"
)


@cache
def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body for an operation in the OpenAPI document. A model's shared definitions are inlined.

    It is made once for each model: making those of all bodies takes longer than the rest of a service's start.
    """
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def query_parameters(model: type[BaseModel]) -> dict[str, Any]:
    """The query parameters of an operation in the OpenAPI document; those that may be left out have no `null` there."""
    schemas = {name: field.get("anyOf", [field])[0] for name, field in model.model_json_schema()["properties"].items()}
    plain = {
        name: {key: field[key] for key in field if key not in ("default", "title")} for name, field in schemas.items()
    }
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in plain.items()]}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """A reference within a model's own schema means nothing within the document."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        siblings = {name: value for name, value in part.items() if name != "$ref"}
        return {**_inlined(definitions[part["$ref"].rpartition("/")[2]], definitions), **siblings}
    return {name: _inlined(value, definitions) for name, value in part.items()}


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as a page: every operation, its purpose, and the fields of its body."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    intro = 'The same for programs: <a href="openapi.json">openapi.json</a>.'
    return "\n".join([head, f"<h1>{title}</h1><p>{intro}</p>", *_operations(document), "</html>"])


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"<b>{escape(method.upper())}</b> <code>{escape(path)}</code>"
            description = escape(operation.get("description", operation.get("summary", "")))
            contents = operation.get("requestBody", {}).get("content", {})
            body = "".join(f"<pre>{_indented(content.get('schema', {}))}</pre>" for content in contents.values())
            yield f"<details><summary>{name} {description}</summary>{body}</details>"


def _indented(schema: Any) -> str:
    return escape(json.dumps(schema, indent=2))
