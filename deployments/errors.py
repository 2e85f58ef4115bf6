"""The service's errors, and how a client sees them."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping

from starlette.responses import JSONResponse

from symmoe.errors import RequestError
from symmoe.wire import messages
from symmoe.wire.answers import envelope

_LOG = logging.getLogger(__name__)


class ApiError(RequestError):
    """A request answered with an error; `headers` are in addition to those of the error itself."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, status=status, retry_after=retry_after)
        self.headers = dict(headers or {})


def log_unforeseen(error: Exception, where: str) -> None:
    """Log the type and origin of an unexpected error, without its message, which may hold a prompt."""
    places = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s in %s; the innermost call comes last:\n%s", type(error).__qualname__, where, places.rstrip())


def internal_error(
    error: Exception, message: str = "something went wrong here; it was not your request's fault"
) -> ApiError:
    """The client's view of an unexpected error, which is logged."""
    log_unforeseen(error, "a request")
    return ApiError(500, "internal_error", message)


def error_headers(error: RequestError) -> dict[str, str]:
    """`Retry-After` in whole seconds, if known; `WWW-Authenticate` for a 401."""
    headers = error.headers if isinstance(error, ApiError) else {}
    retry = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    return {**headers, **retry, **({"www-authenticate": "Bearer"} if error.status == 401 else {})}


def error_response(error: RequestError, path: str = "", request: str = "") -> JSONResponse:
    """The response for an error to the request with that id, in the format of the path's API."""
    document = messages.envelope(error, request) if path.startswith("/v1/messages") else envelope(error)
    return JSONResponse(document, error.status, headers=error_headers(error))
