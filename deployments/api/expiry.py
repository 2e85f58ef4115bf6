"""How long files are kept: as their creator asks, in OpenAI's terms, up to the service's limit."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.wire.chat import request_error

from .multipart import Form

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_HOUR, _MONTH = 3600, 2_592_000


class ExpiresAfter(BaseModel):
    """A time after the file's creation: an hour to 30 days."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=_HOUR, le=_MONTH)


class _ExpiryForm(BaseModel):
    expires_after: ExpiresAfter


def expiry_in(form: Form) -> ExpiresAfter | None:
    """The expiry stated in a form, if any. Raises `ApiError`."""
    expiry = {name: form.fields[key] for name, key in (("anchor", ANCHOR), ("seconds", SECONDS)) if key in form.fields}
    if not expiry:
        return None
    try:
        return _ExpiryForm.model_validate({"expires_after": expiry}).expires_after
    except ValidationError as error:
        raise request_error(error) from error


def kept_for(said: ExpiresAfter | None, longest: float) -> int | None:
    """For how many seconds a file is kept; None for ever. `longest` is the service's own limit, 0 for none."""
    bounds = [*([] if said is None else [said.seconds]), *([max(1, round(longest))] if longest > 0 else [])]
    return min(bounds, default=None)
