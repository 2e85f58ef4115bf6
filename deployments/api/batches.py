"""`/v1/batches`: many requests in one file, answered when there is room."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from symmoe.wire.sampling import Text

from ..batches.batches import BatchRecord
from ..batches.files import BATCH, FILE, INPUT, is_id, new_id
from ..errors import ApiError
from .batching import Batching, quota_errors
from .body import read_body
from .expiry import ExpiresAfter, kept_for
from .paging import asked_page, listed, parameters
from .service import Service

_USUAL, _MOST = 20, 100
_Name = Annotated[Text, Field(min_length=1, max_length=64)]
_Value = Annotated[Text, Field(max_length=512)]


class BatchRequest(BaseModel):
    """What a client may say of a new batch."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input_file_id: Text = Field(max_length=100)
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: dict[_Name, _Value] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None


def batch_paths(app: FastAPI, service: Service, batching: Batching) -> None:
    """Register them. Everybody sees their own batches only."""

    @app.post("/v1/batches", openapi_extra=_body(), response_model=None)
    async def create(request: Request) -> Response:
        """A new batch."""
        caller = await service.caller(request)
        body = await read_body(request, BatchRequest, batching.settings.most_bytes)
        headers = await service.admitted(caller)
        await _check_input(batching, body.input_file_id, caller.id)
        with quota_errors("input_file_id"):
            await batching.quota.check_batch(caller.id)
        now = int(time.time())
        ends = now + max(1, round(batching.settings.batch_window))
        ids = new_id(BATCH), caller.id, body.input_file_id, new_id(FILE), new_id(FILE)
        keep = kept_for(body.output_expires_after, batching.settings.file_seconds)
        record = BatchRecord(*ids, now, ends, body.metadata, keep)
        if not await batching.batches.create(record):
            message = f"this key has {batching.settings.most_open_batches} batches that are not over, as many as it may"
            raise ApiError(
                429, "too_many_batches", f"{message}; wait for one, or cancel it", retry_after=60, headers=headers
            )
        batching.metrics.entered("validating")
        batching.runner.wake()
        return JSONResponse(record.document, headers=headers)

    @app.get("/v1/batches", openapi_extra=parameters("after", "limit"), response_model=None)
    async def page(request: Request) -> Response:
        """A page of batches, the newest first."""
        caller = await service.caller(request)
        records, more = await batching.batches.page(caller.id, asked_page(request, BATCH, _USUAL, _MOST))
        return JSONResponse(listed([record.document for record in records], more))

    @app.get("/v1/batches/{ident}", response_model=None)
    async def one(request: Request, ident: str) -> Response:
        """How a batch stands."""
        return JSONResponse((await _own(request, service, batching, ident)).document)

    @app.post("/v1/batches/{ident}/cancel", response_model=None)
    async def cancel(request: Request, ident: str) -> Response:
        """End a batch early; what was answered is kept."""
        record = await _own(request, service, batching, ident)
        if record.ended or not await batching.batches.cancel(ident):
            raise ApiError(409, "batch_ended", "the batch is over, or about to be")
        if record.state != "cancelling":
            batching.metrics.entered("cancelling")
        batching.runner.cancelled(record)
        return JSONResponse((await _own(request, service, batching, ident)).document)


async def _own(request: Request, service: Service, batching: Batching, ident: str) -> BatchRecord:
    caller = await service.caller(request)
    record = await batching.batches.get(ident, caller.id) if is_id(ident, BATCH) else None
    if record is None:
        raise ApiError(404, "batch_not_found", "no such batch")
    return record


async def _check_input(batching: Batching, ident: str, owner: str) -> None:
    record = await batching.files.get(ident, owner) if is_id(ident, FILE) else None
    if record is None:
        raise ApiError(404, "file_not_found", "no such file", "input_file_id")
    if record.purpose != INPUT:
        raise ApiError(400, "invalid_value", "input_file_id: the file's purpose is not batch", "input_file_id")


def _body() -> dict[str, Any]:
    schema = BatchRequest.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
