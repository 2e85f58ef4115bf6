"""`/v1/files`: the inputs and outputs of batches."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from ..batches.files import FILE, FileRecord, is_id
from ..errors import ApiError
from .batching import Batching
from .expiry import ANCHOR, SECONDS
from .paging import asked_page, listed, parameters
from .service import Service
from .upload import received

_MOST = 10_000


def file_paths(app: FastAPI, service: Service, batching: Batching) -> None:
    """Register these paths. Callers see only their own files."""
    files = batching.files

    @app.post("/v1/files", openapi_extra=_form(), response_model=None)
    async def upload(request: Request) -> Response:
        """A new file."""
        caller = await service.caller(request)
        async with received(request, batching, caller.id) as record:
            await files.put(record)
        return JSONResponse(record.document)

    @app.get("/v1/files", openapi_extra=parameters("after", "limit", "order", "purpose"), response_model=None)
    async def page(request: Request) -> Response:
        """A page of files, the newest first unless asked otherwise."""
        caller = await service.caller(request)
        page_query = asked_page(request, FILE, _MOST, _MOST)
        records, more = await files.page(caller.id, page_query, request.query_params.get("purpose", "")[:64])
        return JSONResponse(listed([record.document for record in records], more))

    @app.get("/v1/files/{ident}", response_model=None)
    async def one(request: Request, ident: str) -> Response:
        """What is known of a file."""
        return JSONResponse((await own_file(request, service, batching, ident)).document)

    @app.get("/v1/files/{ident}/content", response_model=None)
    async def content(request: Request, ident: str) -> Response:
        """A file's contents."""
        record = await own_file(request, service, batching, ident)
        path = files.contents.path(record.id)
        if not path.is_file():
            raise ApiError(503, "content_unavailable", "the file's contents are not on this machine", retry_after=5)
        safe = {"x-content-type-options": "nosniff"}
        return FileResponse(path, media_type="application/jsonl", filename=f"{record.id}.jsonl", headers=safe)

    @app.delete("/v1/files/{ident}", response_model=None)
    async def delete(request: Request, ident: str) -> Response:
        """Forget a file that no batch needs any more."""
        record = await own_file(request, service, batching, ident)
        if await batching.batches.using(record.id):
            raise ApiError(409, "file_in_use", "a batch that is not over is made of this file; cancel it first")
        await files.delete(record)
        return JSONResponse({"id": record.id, "object": "file", "deleted": True})


async def own_file(request: Request, service: Service, batching: Batching, ident: str) -> FileRecord:
    """The caller's file with that id; `ApiError` 404 for any other."""
    caller = await service.caller(request)
    record = await batching.files.get(ident, caller.id) if is_id(ident, FILE) else None
    if record is None:
        raise ApiError(404, "file_not_found", "no such file")
    return record


def _form() -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"type": "string", "enum": ["batch"]},
            ANCHOR: {"type": "string", "enum": ["created_at"]},
            SECONDS: {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
        },
        "dependentRequired": {ANCHOR: [SECONDS], SECONDS: [ANCHOR]},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
