"""What goes wrong in the service, and how a client is told."""

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
    """A request that is answered with an error; `told` are headers beside those that the error itself calls for."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: float | None = None,
        told: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, status=status, retry_after=retry_after)
        self.told = dict(told or {})


def log_unforeseen(error: Exception, where: str) -> None:
    """Tell the log the kind of an error that nobody foresaw and where it came from, and not its message, which may hold
    a prompt.
    """
    places = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s in %s; the innermost call comes last:\n%s", type(error).__qualname__, where, places.rstrip())


def internal_error(
    error: Exception, message: str = "something went wrong here; it was not your request's fault"
) -> ApiError:
    """What to tell of an error that nobody foresaw, of which the log is told."""
    log_unforeseen(error, "a request")
    return ApiError(500, "internal_error", message)


def error_headers(error: RequestError) -> dict[str, str]:
    """`Retry-After` in whole seconds, where it is known; `WWW-Authenticate` for a 401."""
    told = error.told if isinstance(error, ApiError) else {}
    after = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    return {**told, **after, **({"www-authenticate": "Bearer"} if error.status == 401 else {})}


def error_response(error: RequestError, path: str = "", request: str = "") -> JSONResponse:
    """The error as a response to a request of that name, in the shape of the path that it was sent to."""
    document = messages.envelope(error, request) if path.startswith("/v1/messages") else envelope(error)
    return JSONResponse(document, error.status, headers=error_headers(error))
