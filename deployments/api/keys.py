"""Who may ask: the seam at which keys are checked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Protocol

from symmoe.errors import JobError

NOBODY = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `id` stands for the key, from which it cannot be told."""

    id: str


class Keys(Protocol):
    """Knows the keys of a service."""

    @property
    def required(self) -> bool:
        """Whether a request without a key is turned away."""
        ...

    async def caller(self, key: str | None) -> Caller | None:
        """Whose key this is; None for one that is not known."""
        ...


class Open:
    """Everybody may ask, with any key or none. For loopback only."""

    required = False

    async def caller(self, key: str | None) -> Caller | None:
        """Nobody in particular."""
        return Caller(NOBODY)


def bearer(authorization: str | None) -> str | None:
    """The key in an `Authorization` header."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def check_exposure(host: str, keys: Keys) -> None:
    """Raise `JobError` for a service that others could reach and anybody may ask."""
    if not keys.required and not is_loopback(host):
        raise JobError(
            f"{host} can be reached from other machines, and no keys are set up",
            hint="serve on 127.0.0.1, behind a proxy that checks who asks",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
