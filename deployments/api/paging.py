"""Lists in pages, with OpenAI's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request

from ..batches.files import is_id
from ..batches.store_access import Page
from ..errors import ApiError


class _Asked(BaseModel):
    limit: int | None = Field(default=None, ge=1)
    after: str | None = Field(default=None, max_length=100)
    order: Literal["asc", "desc"] = "desc"


def asked_page(request: Request, prefix: str, usual: int, most: int) -> Page:
    """The page that a request asks for. Raises `ApiError`, and `ValidationError` for invalid parameters."""
    query = _Asked.model_validate(dict(request.query_params))
    if query.limit is not None and query.limit > most:
        raise ApiError(400, "invalid_value", f"limit must be at most {most}", "limit")
    if query.after is not None and not is_id(query.after, prefix):
        raise ApiError(400, "invalid_value", "after must be an id of the list", "after")
    return Page(query.limit or usual, query.after, query.order)


def listed(documents: Sequence[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A page in OpenAI's format."""
    ends = {"first_id": documents[0]["id"], "last_id": documents[-1]["id"]} if documents else {}
    return {"object": "list", "data": list(documents), "first_id": None, "last_id": None, **ends, "has_more": more}


def parameters(*names: str) -> dict[str, Any]:
    """The query parameters for the OpenAPI document."""
    kinds: dict[str, dict[str, Any]] = {
        "limit": {"type": "integer", "minimum": 1},
        "after": {"type": "string"},
        "order": {"type": "string", "enum": ["asc", "desc"]},
        "purpose": {"type": "string"},
    }
    return {"parameters": [{"name": name, "in": "query", "schema": kinds[name]} for name in names]}
