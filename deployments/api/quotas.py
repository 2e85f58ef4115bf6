"""The error for an exhausted quota."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..batches.quota import OverQuotaError
from ..errors import ApiError


@contextmanager
def told_of_quota(param: str) -> Iterator[None]:
    """Raise `ApiError` for `OverQuotaError`: 413, since asking again changes nothing."""
    try:
        yield
    except OverQuotaError as error:
        raise ApiError(413, "file_quota_exceeded", str(error), param) from error
