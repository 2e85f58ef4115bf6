"""Answers a line of a batch like an online request, with the same checks and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from symmoe.errors import RequestError, StoreError
from symmoe.wire.answers import envelope
from symmoe.wire.chat import line_request

from ..batches.batches import ENDPOINT
from ..batches.output import Answered
from ..errors import ApiError, internal_error
from ..events import TurnedAwayError
from ..telemetry.note import Note
from .completions import api_error
from .service import Service

_BY_THE_LINE = ("expert_lost", "no_answer")
"""What a line may itself cause each time that it is asked: an engine's end, or answers with nothing in them."""


class LineAnswers:
    """Answers lines through the service's orchestrator."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, body: dict[str, Any], ident: str, share: str, owner: str, seconds: float) -> Answered:
        """The response to a request body. After 429 and 503 it may be sent again within the line's own deadline."""
        note = Note(ident, "POST", ENDPOINT, key=owner)
        answered = await self._answered(body, note, share, seconds)
        note.status = answered.status
        if "error" in answered.body:
            note.code = answered.body["error"]["code"]
        return replace(answered, note=note)

    async def _answered(self, body: dict[str, Any], note: Note, share: str, seconds: float) -> Answered:
        try:
            request = line_request(body)
        except RequestError as error:
            return _refused(error)
        deadline = request.symmoe.deadline
        try:
            return Answered(200, await self._service.complete(request, note, share, min(deadline or seconds, seconds)))
        except RequestError as error:
            return _refused(error)
        except TurnedAwayError as error:
            refused = _refused(api_error(error.why), deadline is not None)
            schema_bound = refused.lost and request.response_format not in (None, {"type": "text"})
            return replace(refused, again=False) if schema_bound else refused  # its schema may be what ended the engine
        except StoreError:
            return _refused(ApiError(503, "store_unavailable", "the store does not answer", retry_after=1.0))
        except Exception as error:
            return _refused(internal_error(error, "something went wrong here"))


def _refused(error: RequestError, own_deadline: bool = False) -> Answered:
    out_of_time = own_deadline and error.code == "deadline_exceeded"
    retry = error.status in (429, 503) and not out_of_time and error.code != "insufficient_quota"
    delay = 1.0 if error.retry_after is None else error.retry_after
    return Answered(error.status, envelope(error), retry, error.code in _BY_THE_LINE, delay)
