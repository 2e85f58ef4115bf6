"""One line of a batch file in OpenAI's format."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from symmoe.errors import RequestError
from symmoe.rows.reading import json_object

MOST_ID = 512
ENDPOINT = "/v1/chat/completions"
_BOM = b"\xef\xbb\xbf"


class BadLineError(RequestError):
    """A line that cannot be asked. `custom_id` is its own, if it could be read."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message, code=code)
        self.custom_id = custom_id


def read_object(raw: bytes, number: int) -> dict[str, Any]:
    """A line as a JSON object. Raises `BadLineError`."""
    try:
        return json_object(raw.removeprefix(_BOM) if number == 1 else raw, number)
    except RequestError as error:
        raise BadLineError(error.code, str(error)) from error


def read_line(
    document: dict[str, Any], number: int, earlier: int | None = None, urls: Container[str] = (ENDPOINT,)
) -> dict[str, Any]:
    """An object as a line with a unique `custom_id` and a `body` for one of `urls`, which is not validated here.

    `earlier` is the line that used its id before, if any. Raises `BadLineError`.
    """
    custom_id = document.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MOST_ID:
        raise BadLineError("invalid_custom_id", f"line {number}: custom_id must be a text of 1 to {MOST_ID} characters")
    if earlier is not None:
        message = f"line {number}: this custom_id was already used on line {earlier}"
        raise BadLineError("duplicate_custom_id", message, custom_id)
    _check_target(document, number, custom_id, urls)
    return document


def _check_target(document: dict[str, Any], number: int, custom_id: str, urls: Container[str]) -> None:
    unknown = sorted(document.keys() - {"custom_id", "method", "url", "body"})
    if unknown:
        raise BadLineError("unknown_field", f"line {number}: unknown field: {unknown[0][:100]}", custom_id)
    if document.get("method") != "POST":
        raise BadLineError("invalid_method", f"line {number}: method must be POST", custom_id)
    if document.get("url") not in urls:
        raise BadLineError("invalid_url", f"line {number}: url must be the batch's endpoint", custom_id)
    if not isinstance(document.get("body"), dict):
        raise BadLineError("invalid_body", f"line {number}: body must be an object", custom_id)
