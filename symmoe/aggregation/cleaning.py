"""Taking out of a text what nobody reads: invisible characters, broken ones, and reasoning that led to the answer."""

from __future__ import annotations

import re

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_SEEN = bytes(range(32, 127)) + b"\n\t"
_REASONING = re.compile(
    r"<(?P<close>/)?(?:think|thinking|thought|reasoning|reflection)>"
    r"|\[(?P<close_square>/)?THINK\]"
    r"|◁(?P<close_triangle>/)?think▷"
    r"|<\|(?:begin|(?P<close_bar>end))_of_thought\|>",
    re.IGNORECASE,
)


def encodable(text: str) -> str:
    """`text` with every half of a surrogate pair, which UTF-8 cannot hold, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def visible(text: str) -> str:
    """`text` without control, zero-width, direction and tag characters; every end of a line is a newline."""
    if text.isascii() and not text.encode().translate(None, _SEEN):
        return text  # as most are: a fortieth of the time
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", encodable(text)))


def without_reasoning(text: str) -> str:
    """What stands outside of `<think>…</think>` and its like.

    A closing marker alone ends reasoning that began with the text, as templates that open it in the prompt leave it.
    Where nothing stands outside, as in an answer cut off while it reasoned, the reasoning itself is all there is.
    """
    if not any(opening in text for opening in "<[◁"):
        return text
    outside: list[str] = []
    start, reasoning = 0, False
    for marker in _REASONING.finditer(text):
        closes = any(marker.groupdict().values())
        if closes and not reasoning:
            outside = []
        elif not reasoning:
            outside.append(text[start : marker.start()])
        reasoning, start = not closes, marker.end()
    if not reasoning:
        outside.append(text[start:])
    said = "".join(outside)
    return said if said.strip() else _REASONING.sub(" ", text)
