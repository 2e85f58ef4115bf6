"""Receives a file straight to the disk, with a size limit, atomically."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from ..batches.files import FILE, INPUT, FileRecord, new_id
from ..errors import ApiError
from .batching import Batching, quota_errors
from .expiry import ANCHOR, SECONDS, expiry_in, kept_for
from .multipart import Form, FormReader

_AROUND = 1 << 16
"""Bytes of a form that are not its file's."""
_FIELDS = frozenset({"purpose", ANCHOR, SECONDS})


@asynccontextmanager
async def received(request: Request, batching: Batching, owner: str) -> AsyncIterator[FileRecord]:
    """The file of a form, its contents on the disk, for a block that registers it.

    Raises `ApiError`. On any error, also in the block, nothing of it is left.
    """
    _check_origin(request, batching.settings.origins)
    reader = FormReader(request.headers.get("content-type", ""), "file", _FIELDS)
    most, contents = batching.settings.most_file_bytes, batching.files.contents
    announced = _announced(request)
    too_large = ApiError(413, "request_too_large", f"the file is larger than {most} bytes", "file")
    if announced is not None and announced > most + _AROUND:
        raise too_large
    least, wanted = (1, most) if announced is None else (max(1, announced - _AROUND), min(announced, most))
    with quota_errors("file"):
        async with batching.quota.room(owner, least, wanted) as room:
            try:
                record = await _receive(request, reader, batching, owner, room)
            except _OverRoomError as error:
                raise (too_large if room >= most else await batching.quota.error(owner)) from error
            try:
                yield record
            except BaseException:
                await contents.delete(record.id)
                raise


class _OverRoomError(Exception):
    """The file is larger than it may be."""


async def _receive(request: Request, reader: FormReader, batching: Batching, owner: str, most: int) -> FileRecord:
    """Write the file as it comes."""
    ident, size, body_size = new_id(FILE), 0, 0
    try:
        async with batching.files.contents.writing(ident) as file:
            async for chunk in request.stream():
                parts, body_size = reader.feed(chunk), body_size + len(chunk)
                size += sum(map(len, parts))
                if size > most or body_size > most + _AROUND:
                    raise _OverRoomError
                if parts:
                    await asyncio.to_thread(file.writelines, parts)
            form = reader.end()
            _check_purpose(form)
            lifetime = kept_for(expiry_in(form), batching.settings.file_seconds)
    except ClientDisconnect as error:
        raise ApiError(400, "incomplete_body", "the connection was closed before the body ended") from error
    except OSError as error:
        raise ApiError(503, "storage_unavailable", "the file cannot be kept just now", retry_after=60) from error
    now = int(time.time())
    return FileRecord(ident, owner, str(form.filename), size, INPUT, now, None if lifetime is None else now + lifetime)


def _announced(request: Request) -> int | None:
    """The body's size, where the client says it."""
    text = request.headers.get("content-length", "")
    return int(text[:18]) if text.isdigit() else None


def _check_purpose(form: Form) -> None:
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise ApiError(400, "missing_parameter", "purpose is missing; it must be batch", "purpose")
    if purpose != INPUT:
        raise ApiError(400, "invalid_value", "purpose must be batch", "purpose")


def _check_origin(request: Request, origins: Sequence[str]) -> None:
    """Forms can be sent by any web page to a service on loopback; browsers say so, and no other client does."""
    origin = request.headers.get("origin")
    if origin is not None and (origin in origins or "*" in origins):
        return
    foreign = origin is not None and _place(origin) != request.headers.get("host", "")
    if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ApiError(403, "cross_site", "files are not taken from web pages of other sites")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
