"""In which order the tensors of an image lie: layers by number, and what an engine fuses side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable

FUSIONS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""The modules that vLLM joins into one, in the order in which it joins their rows."""

_MEMBERS = {member: (fused, place) for fused, members in FUSIONS.items() for place, member in enumerate(members, 1)}
_NUMBER = re.compile(r"(\d+)")
Key = tuple[tuple[str | int, ...], int, str]


def in_order(names: Iterable[str]) -> list[str]:
    """The names sorted so that the members of each fusion are neighbours, weights and biases each among themselves."""
    return sorted(names, key=_key)


def _key(name: str) -> Key:
    parts = name.split(".")
    place = 0
    for index, part in enumerate(parts):
        if part in _MEMBERS:
            parts[index], place = _MEMBERS[part]
    pieces = _NUMBER.split(".".join(parts))
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), place, name
