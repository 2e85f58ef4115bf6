"""Reads a request's body with limits on size and depth, and validates it against a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from symmoe.wire.chat import request_error

from ..errors import ApiError

Body = TypeVar("Body", bound=BaseModel)


async def read_body(
    request: Request, model: type[Body], usual: int, most: int | None = None, larger: Callable[[], None] | None = None
) -> Body:
    """The body as a model. Raises `RequestError` saying what is wrong with it.

    At most `usual` bytes are read or, once `larger` was called without raising, at most `most`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        # a web page can send anything else to this address without being asked whether it may
        raise ApiError(415, "unsupported_media_type", "the content type must be application/json")
    raw = await _bounded(request, usual, most or usual, larger)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise request_error(error) from error


async def _bounded(request: Request, usual: int, most: int, larger: Callable[[], None] | None) -> bytes:
    raw = bytearray()
    too_large = ApiError(413, "request_too_large", f"the body is larger than {most} bytes")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and len(announced) < 20 and int(announced) > most:
        raise too_large
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > most:
                raise too_large
            if len(raw) > usual and larger is not None:
                larger()
                larger = None
    except ClientDisconnect as error:
        raise ApiError(400, "incomplete_body", "the connection was closed before the body ended") from error
    return bytes(raw)
