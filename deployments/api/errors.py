"""OpenAI's error envelope, for everything that goes wrong."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """A request that is answered with an error. `param` is the field at fault, `retry_after` in seconds."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, where it is known."""
        return {} if self.retry_after is None else {"retry-after": str(math.ceil(self.retry_after))}


def error_response(error: ApiError) -> JSONResponse:
    """The error as a response."""
    return JSONResponse(error.body, error.status, headers=error.headers)
