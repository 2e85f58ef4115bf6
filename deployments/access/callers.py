"""Who may ask: the seam at which keys are checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from symmoe.errors import JobError

NOBODY = "anonymous"
BudgetPer = Literal["day", "month", "ever"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `id` stands for the key, from which it cannot be told, and for those in whose place it came.

    A limit that is None is none.

    An `admin` may change which experts there are. The `budget` is in the pool's currency.
    """

    id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False
    budget: float | None = None
    budget_per: BudgetPer = "month"


class Keys(Protocol):
    """Knows the keys of a service."""

    @property
    def required(self) -> bool:
        """Whether a request without a key is turned away."""
        ...

    async def caller(self, key: str | None) -> Caller | None:
        """Whose key this is; None for one that is not known. `StoreError` where that cannot be told just now."""
        ...

    async def named(self, ident: str) -> Caller | None:
        """Whose id this is; None where that key is not good any more. `StoreError` where that cannot be told."""
        ...


class Open:
    """Everybody may ask, with any key or none. For loopback only, where everybody may also be `admin`."""

    required = False

    def __init__(self, admin: bool = False) -> None:
        self._caller = Caller(NOBODY, admin=admin)

    async def caller(self, key: str | None) -> Caller | None:
        """Nobody in particular."""
        return self._caller

    async def named(self, ident: str) -> Caller | None:
        """Nobody in particular, also for what was begun with a key."""
        return self._caller


def bearer(authorization: str | None) -> str | None:
    """The key in an `Authorization` header."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that a request comes with: in `Authorization`, as OpenAI's clients send it, or in `x-api-key`."""
    return bearer(headers.get("authorization")) or headers.get("x-api-key", "").strip() or None


def check_exposure(host: str, keys: bool) -> None:
    """Raise `JobError` for a service that others could reach and that checks no `keys`."""
    if not keys and not is_loopback(host):
        raise JobError(
            f"{host} can be reached from other machines, and no keys would be checked",
            hint="make one with `symmoe key create NAME`, and serve with `--keys`",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
