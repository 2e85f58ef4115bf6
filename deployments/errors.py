"""OpenAI's error envelope, for everything that goes wrong."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

_LOG = logging.getLogger(__name__)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """A request that is answered with an error. `param` is the field at fault, `retry_after` in seconds.

    `told` are headers beside those that the error itself calls for.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: float | None = None,
        told: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        self._told = dict(told or {})

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, where it is known; how to say who asks, where that is missing."""
        after = {} if self.retry_after is None else {"retry-after": str(math.ceil(self.retry_after))}
        return {**self._told, **after, **({"www-authenticate": "Bearer"} if self.status == 401 else {})}


def internal_error(
    error: Exception, message: str = "something went wrong here; it was not your request's fault"
) -> ApiError:
    """What to tell of an error that nobody foresaw. The log is told its kind and where it came from, and not its
    message, which may hold a prompt.
    """
    places = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("%s in a request; the innermost call comes last:\n%s", type(error).__qualname__, places.rstrip())
    return ApiError(500, "internal_error", message)


def error_response(error: ApiError) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error.body, error.status, headers=error.headers)
