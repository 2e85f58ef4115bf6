"""`/docs`: the OpenAPI document as one page that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page runs nothing and fetches nothing."""
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;padding:1rem;border:1px solid #8884}"
    "summary{cursor:pointer;padding:.3rem 0}b{display:inline-block;min-width:4.5rem}"
)


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as a page: every operation, its purpose, and the fields of its body."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    whole = 'The same for programs: <a href="openapi.json">openapi.json</a>.'
    return "\n".join([head, f"<h1>{title}</h1><p>{whole}</p>", *_operations(document), "</html>"])


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            name = f"<b>{escape(method.upper())}</b> <code>{escape(path)}</code>"
            said = escape(told.get("description", told.get("summary", "")))
            contents = told.get("requestBody", {}).get("content", {})
            body = "".join(f"<pre>{_indented(each.get('schema', {}))}</pre>" for each in contents.values())
            yield f"<details><summary>{name} {said}</summary>{body}</details>"


def _indented(schema: Any) -> str:
    return escape(json.dumps(schema, indent=2))
