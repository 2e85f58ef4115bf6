"""Dataclasses of which every question takes dozens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

__all__ = ["quick"]

if TYPE_CHECKING:
    from dataclasses import dataclass as quick
else:

    def quick(*, frozen, slots):
        """`dataclass`, but that nothing is assigned to a frozen one is left to the type checker to see.

        Guarded ones take three to nine times as long to make, the longer the more fields they have: 1.4 µs for ten,
        where these take 0.2.
        """

        def made(cls):
            return dataclass(slots=slots, unsafe_hash=frozen and "__hash__" not in vars(cls))(cls)

        return made
