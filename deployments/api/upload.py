"""Receiving a file: straight to the disk, bounded, whole or not at all."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from ..batches.contents import Contents
from ..batches.files import INPUT, FileRecord
from ..batches.ids import FILE, new_id
from .errors import ApiError
from .form import Form, FormReader

_AROUND = 1 << 16
"""Bytes of a form that are not its file's."""


async def receive(request: Request, contents: Contents, owner: str, most: int) -> FileRecord:
    """The file of a form, its contents on the disk. Raises `ApiError`; nothing is then left of it."""
    _check_origin(request)
    reader = FormReader(request.headers.get("content-type", ""), "file", frozenset({"purpose"}))
    too_large = ApiError(413, "request_too_large", f"the file is larger than {most} bytes", "file")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > most + _AROUND):
        raise too_large
    ident, size, whole = new_id(FILE), 0, 0
    try:
        async with contents.writing(ident) as file:
            async for chunk in request.stream():
                parts, whole = reader.feed(chunk), whole + len(chunk)
                size += sum(map(len, parts))
                if size > most or whole > most + _AROUND:
                    raise too_large
                if parts:
                    await asyncio.to_thread(file.writelines, parts)
            form = reader.end()
            _check_purpose(form)
    except ClientDisconnect as error:
        raise ApiError(400, "incomplete_body", "the connection was closed before the body ended") from error
    except OSError as error:
        raise ApiError(503, "storage_unavailable", "the file cannot be kept just now", retry_after=60) from error
    return FileRecord(ident, owner, str(form.filename), size, INPUT, int(time.time()))


def _check_purpose(form: Form) -> None:
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise ApiError(400, "missing_parameter", "purpose is missing; it must be batch", "purpose")
    if purpose != INPUT:
        raise ApiError(400, "invalid_value", "purpose must be batch", "purpose")


def _check_origin(request: Request) -> None:
    """Forms can be sent by any web page to a service on loopback; browsers say so, and no other client does."""
    origin = request.headers.get("origin")
    foreign = origin is not None and _place(origin) != request.headers.get("host", "")
    if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ApiError(403, "cross_site", "files are not taken from web pages of other sites")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
