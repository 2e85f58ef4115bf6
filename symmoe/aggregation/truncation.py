"""Fitting candidates into a window, each with an equal share of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TokenCounter = Callable[[str], int]
"""How many tokens a text is."""

CUT = "[…] "
"""Stands where the beginning of a candidate was left out. What follows it is on its line: no marker can begin there."""

_LONGEST_TOKEN = 32


def estimated_tokens(text: str) -> int:
    """About how many tokens a text is, for want of a tokenizer: three bytes each, and each digit or mark one."""
    marks = sum(not (character.isalpha() or character.isspace()) for character in text)
    return (len(text.encode("utf-8", "replace")) - marks + 2) // 3 + marks


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of `room` each length gets: all that it asks, or an equal share of what the others leave."""
    shares = [0] * len(lengths)
    left = max(0, room)
    waiting = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for number, place in enumerate(waiting):
        shares[place] = min(lengths[place], left // (len(waiting) - number))
        left -= shares[place]
    return shares


def fitted(texts: Sequence[str], room: int, count: TokenCounter) -> list[str]:
    """The texts in `room` tokens. One that is too long for its share keeps its end, where the answer stands."""
    near = [text[-room * _LONGEST_TOKEN :] if room else "" for text in texts]  # no need to count a megabyte
    lengths = [count(text) + len(whole) - len(text) for text, whole in zip(near, texts, strict=True)]
    shares = fair_shares(lengths, room)
    return [
        text if length <= share else ending(text, share, count)
        for text, length, share in zip(texts, lengths, shares, strict=True)
    ]


def ending(text: str, room: int, count: TokenCounter) -> str:
    """The longest end of `text` that fits `room` tokens with `CUT` before it; empty if not even that fits."""
    low, high = 0, min(len(text), max(0, room) * _LONGEST_TOKEN)
    while low < high:
        middle = (low + high + 1) // 2
        if count(CUT + text[-middle:]) <= room:
            low = middle
        else:
            high = middle - 1
    return CUT + text[-low:] if low else ""
