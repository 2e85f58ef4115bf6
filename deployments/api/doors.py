"""Doors beside chat completions, on the same way to an answer: each body is made a chat request, and its answer written
as the door has it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from symmoe.errors import StoreError
from symmoe.limits import EMBEDDED_CHARACTERS
from symmoe.types import Generation, Sampling
from symmoe.wire.answers import AnswerFacts, choices
from symmoe.wire.completions import EMBEDDER, CompletionRequest, CompletionWriter, EmbeddingRequest, embeddings
from symmoe.wire.messages import CountRequest, MessageRequest, MessageWriter
from symmoe.wire.responses import Kept, ResponseRequest, ResponseWriter

from ..access.cache import KeptResponses
from ..access.keys import Caller
from ..errors import ApiError
from .docs_page import json_body
from .service import Service, ignored_header

COMPLETIONS, MESSAGES, RESPONSES = "/v1/completions", "/v1/messages", "/v1/responses"
_ID = re.compile(r"resp_[0-9a-f]{24}", re.ASCII)


def door_paths(app: FastAPI, service: Service) -> None:
    """Register them."""
    responses = KeptResponses(service.patient)

    @app.post(COMPLETIONS, openapi_extra=json_body(CompletionRequest), response_model=None)
    async def complete(request: Request) -> Response:
        """A prompt that an expert goes on with, whole or streamed."""
        return await _completion(service, request)

    @app.post("/v1/embeddings", openapi_extra=json_body(EmbeddingRequest), response_model=None)
    async def embed(request: Request) -> Response:
        """Texts as vectors of the pool's embedder."""
        return await _embeddings(service, request)

    @app.post(MESSAGES, openapi_extra=json_body(MessageRequest), response_model=None)
    async def message(request: Request) -> Response:
        """A message as Anthropic has it, whole or streamed."""
        return await _message(service, request)

    @app.post(f"{MESSAGES}/count_tokens", openapi_extra=json_body(CountRequest), response_model=None)
    async def count(request: Request) -> Response:
        """How many tokens a conversation has for the expert that is named, or else for the pool's first."""
        return await _counted(service, request)

    @app.post(RESPONSES, openapi_extra=json_body(ResponseRequest), response_model=None)
    async def respond(request: Request) -> Response:
        """A response, whole or streamed, which the next may go on from."""
        return await _response(service, responses, request)

    @app.get(f"{RESPONSES}/{{ident}}", response_model=None)
    async def responded(request: Request, ident: str) -> Response:
        """A response that was kept."""
        stored = await _kept(responses, await service.caller(request), ident)
        return JSONResponse(stored.response)

    @app.delete(f"{RESPONSES}/{{ident}}", response_model=None)
    async def forget(request: Request, ident: str) -> Response:
        """A response is kept no longer."""
        caller = await service.caller(request)
        if not (_ID.fullmatch(ident) and await responses.drop(caller.id, ident)):
            raise _unknown("response_id")
        return JSONResponse({"id": ident, "object": "response", "deleted": True})


async def _completion(service: Service, request: Request) -> Response:
    caller, headers, body = await service.opened(request, CompletionRequest)
    body.check(service.settings.most_choices)
    headers |= ignored_header(body.ignored, service.settings.strict)
    ident, options = secrets.token_hex(12), body.stream_options
    chats, echoed = body.chats(), body.prompts if body.echo else ()
    writer = CompletionWriter(ident, body.model, options is not None and options.include_usage, echoed)
    if len(chats) > 1:
        return await service.several(request, caller, chats, ident, writer, headers)
    return await service.answer(request, caller, chats[0], ident, writer, headers, raw=True)


async def _message(service: Service, request: Request) -> Response:
    caller, headers, body = await service.opened(request, MessageRequest)
    headers |= ignored_header(body.ignored, service.settings.strict)
    ident = secrets.token_hex(12)
    return await service.answer(request, caller, body.chat(), ident, MessageWriter(ident, body.model), headers)


async def _counted(service: Service, request: Request) -> Response:
    _, headers, body = await service.opened(request, CountRequest)
    query, model = body.chat().query(Sampling(1)), service.model(body.model)
    tokens = await service.tokens(query, model.expert)
    return JSONResponse({"input_tokens": tokens}, headers=headers)


async def _response(service: Service, responses: KeptResponses, request: Request) -> Response:
    caller, headers, body = await service.opened(request, ResponseRequest)
    headers |= ignored_header(body.ignored, service.settings.strict)
    before = await _kept(responses, caller, body.previous_response_id) if body.previous_response_id else None
    turns, ident = body.turns(before.turns if before else ()), secrets.token_hex(12)
    writer = ResponseWriter(ident, body)

    async def keep(finished: Mapping[int, Generation], facts: AnswerFacts) -> None:
        message = choices(ident, finished)[0]["message"]
        response = writer.whole(finished, replace(facts, symmoe=None))
        try:
            writer.kept = await responses.keep(
                caller.id, f"resp_{ident}", Kept(response=response, turns=[*turns, message])
            )
        except StoreError:  # the answer is there, and paid for
            writer.kept = False

    on_answer = None if body.store is False else keep
    return await service.answer(request, caller, body.chat(turns), ident, writer, headers, on_answer=on_answer)


async def _kept(responses: KeptResponses, caller: Caller, ident: str) -> Kept:
    stored = await responses.find(caller.id, ident) if _ID.fullmatch(ident) else None
    if stored is None:
        raise _unknown("previous_response_id")
    return stored


def _unknown(param: str) -> ApiError:
    message = "no such response: it was not stored, has expired, or gave way to newer ones"
    return ApiError(404, "response_not_found", message, param)


async def _embeddings(service: Service, request: Request) -> Response:
    caller, headers, body = await service.opened(request, EmbeddingRequest)
    headers |= ignored_header(body.ignored, service.settings.strict)
    embedder = service.embedder
    if body.model not in (EMBEDDER, embedder):
        message = f"no such embedder; there is {EMBEDDER!r}, which is {embedder!r}"
        raise ApiError(404, "model_not_found", message, "model")
    longest = max(map(len, body.texts))
    if not all(body.texts) or longest > EMBEDDED_CHARACTERS:
        message = f"input: texts have 1 to {EMBEDDED_CHARACTERS} characters here"
        raise ApiError(400, "invalid_value", message, "input")
    vectors, tokens = await service.embedded(caller, body.texts, body.dimensions)
    document: dict[str, Any] = embeddings(body.model, vectors, body.encoding_format, tokens)
    return JSONResponse(document, headers=headers)
