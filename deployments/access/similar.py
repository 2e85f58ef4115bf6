"""When two questions that are worded differently may share an answer: a cosine alone does not tell.

"What is 17 + 25?" and "What is 17 + 26?" have a cosine near 1, and to an embedder that averages words "who beat whom"
is one question both ways round. So whatever changes a question without changing its vector must be equal: numbers,
quoted parts, signs, negations, names and single letters, in their order, and the order of the words that both have.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 500
"""Characters beyond which questions are not compared: embedders cut long texts, and cannot tell their ends apart."""

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half "
    "quarter third twice double triple first second last once"
)
_TURNING = (
    "not no nor never none nothing nobody without except but cannot more less most least fewer greater smaller larger "
    "before after above below over under all any only both either neither min max increase decrease"
)
_TELLING = frozenset(f"{_NUMBERS} {_TURNING}".split())
_PARTS = re.compile(
    r"""
    (?P<quoted>"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']+'(?!\w))
    |(?P<number>\w*\d\w*(?:[.,:/]\w*\d\w*)*)
    |(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)
    |(?P<sign>[^\s.,;:?'"])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Likeness:
    """What of a question is compared beside its vector: `form` must be equal, the order of common `words` too."""

    form: tuple[str, ...]
    words: tuple[int, ...]


def likeness(text: str) -> Likeness | None:
    """What is compared of a question; None for one that is too long to be compared."""
    if len(text) > LONGEST:
        return None
    form: list[str] = []
    words: list[int] = []
    begins = True  # a capital says nothing where a sentence begins
    for part in _PARTS.finditer(text):
        said = part.group()
        if part.lastgroup == "word":
            words.append(_hashed(said.lower()))
            if _tells(said, begins):
                form.append(said.lower())
        else:
            form.append(said)
        rest = text[part.end() :].lstrip("\"'”»`) ")
        begins = rest[:1] in (".", "?", "!", ":", "\n")
    return Likeness(tuple(form), tuple(words))


def pack(name: str, mark: Likeness, vector: NDArray[np.float32]) -> bytes:
    """An entry to compare with: where its answer stands, its words, its vector. No text of the question."""
    packed = base64.b64encode(np.asarray(vector, dtype=np.float16).tobytes()).decode()
    return json.dumps({"answer": name, "words": mark.words, "vector": packed}).encode()


def nearest(rows: Sequence[bytes], mark: Likeness, vector: NDArray[np.float32], least: float) -> str | None:
    """Where the answer of the nearest entry stands whose cosine is `least` or more and whose words stand alike."""
    best, found = least, None
    for row in map(json.loads, rows):
        kept = np.frombuffer(base64.b64decode(row["vector"]), dtype=np.float16).astype(np.float32)
        if kept.shape != vector.shape or not _in_order(mark.words, row["words"]):
            continue
        cosine = float(kept @ vector) / max(float(np.linalg.norm(kept) * np.linalg.norm(vector)), 1e-9)
        if cosine >= best:
            best, found = cosine, str(row["answer"])
    return found


def _tells(word: str, begins: bool) -> bool:
    """Whether a word changes a question more than its vector."""
    plain = word.lower()
    name = (not begins and word[:1].isupper()) or any(letter.isupper() for letter in word[1:])
    return len(word) == 1 or name or plain in _TELLING or plain.endswith(("n't", "n’t"))


def _in_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the words that both have come in one order, as often."""
    common: Any = set(one) & set(other)
    return [word for word in one if word in common] == [word for word in other if word in common]


def _hashed(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
