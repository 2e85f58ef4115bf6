"""When two questions that are worded differently may share an answer: a cosine does not tell.

To an embedder "What is 17 + 25?" and "What is 17 + 26?" are nearer to each other than either is to "Add 25 and 17", and
so are questions that differ in a name, a noun or the order of words (`symmoe bench cache`). So two are compared only
where they have the same words in the same order, but for words that merely ask or join. What is left to tell them
apart is the cosine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 500
"""Characters beyond which questions are not compared: embedders cut long texts, and cannot tell their ends apart."""

_ASKING = re.compile(
    r"""
    (?:^|(?<=[.?!:\n])\s)\s*
    (?:please\s+)? (?:(?:can|could|would)\s+you\s+(?:please\s+)?)?
    (?: (?:(?:tell|give|show)\s+(?:me|us)\s+)? what(?:\s+is|\s+are|['’]s)
      | (?:tell|give|show)\s+(?:me|us)
      | calculate | compute | evaluate | determine | find | work\s+out
      | how\s+do\s+(?:you|i|we)\s+say
    )(?=\s)
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""How a sentence begins that asks for what follows."""

_PARTS = re.compile(
    r"""
    (?P<quoted>"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']+'(?!\w))
    |(?P<number>\w*\d\w*(?:[.,:/]\w*\d\w*)*)
    |(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)
    |(?P<sign>[^\s.,;:?'"])
    """,
    re.VERBOSE,
)
_FRAME = frozenset(
    """
    the please what which tell give show me us you i we can could would do does is are be
    calculate compute evaluate determine find work out say write put express convert
    this that these those it following as in into of for to
    """.split()
)
"""Words that merely ask or join. Where a sentence begins with a verb such as `is`, it asks whether; then it counts."""
_PASSED_OVER = _FRAME | {"a", "an", "number"}
_WHETHER = frozenset("do does is are be can could would".split())
_SAID = {"plus": "+", "minus": "-", "times": "*", "×": "*"}
_STEM = 4
"""Letters that must be left of a word for the s at its end not to count."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What of a question is compared beside its vector: `form` must be equal, the order of common `words` too."""

    form: tuple[str, ...]
    words: tuple[int, ...]


def likeness(text: str) -> Likeness | None:
    """What is compared of a question; None for one that is too long to be compared."""
    if len(text) > LONGEST:
        return None
    said = list(_said(_ASKING.sub(" ", text)))
    return Likeness(tuple(word for word in said if word not in _FRAME), tuple(_hashed(word) for word in said))


def alike(one: Likeness, other: Likeness) -> bool:
    """Whether two questions may be one, as far as can be told without their vectors."""
    return one.form == other.form and _in_order(one.words, other.words)


def pack(name: str, mark: Likeness, vector: NDArray[np.float32]) -> bytes:
    """An entry to compare with: where its answer stands, its words, its vector. No text of the question."""
    packed = base64.b64encode(np.asarray(vector, dtype=np.float16).tobytes()).decode()
    return json.dumps({"answer": name, "words": mark.words, "vector": packed}).encode()


def nearest(rows: Sequence[bytes], mark: Likeness, vector: NDArray[np.float32], least: float) -> str | None:
    """Where the answer of the nearest entry stands whose cosine is `least` or more and whose words stand alike."""
    best, found = least, None
    for row in rows:
        try:
            entry = json.loads(row)
            kept = np.frombuffer(base64.b64decode(entry["vector"]), dtype=np.float16).astype(np.float32)
            alike, name = _in_order(mark.words, entry["words"]), str(entry["answer"])
        except (KeyError, TypeError, ValueError):  # spoilt: as good as none
            continue
        if kept.shape != vector.shape or not alike:
            continue
        cosine = float(kept @ vector) / max(float(np.linalg.norm(kept) * np.linalg.norm(vector)), 1e-9)
        if cosine >= best:
            best, found = cosine, name
    return found


def _said(text: str) -> Iterator[str]:
    parts = list(_PARTS.finditer(text))
    for place, part in enumerate(parts):
        said, before = part.group(), text[: part.start()].rstrip(" \"'“«`(")
        following = parts[place + 1] if place + 1 < len(parts) else None
        if part.lastgroup != "word":
            yield _SAID.get(said, said)
        elif said.lower() in _PASSED_OVER and "," in (before[-1:], text[part.end() : part.end() + 1]):
            yield f",{said.lower()}"  # a thing of a list
        elif not _says_nothing(said.lower(), following):
            yield _word(said, begins=before[-1:] in ("", *".?!:\n"))


def _says_nothing(word: str, following: re.Match[str] | None) -> bool:
    """Articles, and `number` before one. Where no word comes after it, an `a` may be a letter."""
    if word in ("a", "an"):
        return following is not None and following.lastgroup == "word" and len(following.group()) > 1
    return word == "the" or (word == "number" and following is not None and following.lastgroup == "number")


def _word(word: str, begins: bool) -> str:
    """A word as it counts: a capital says nothing where a sentence begins, and elsewhere makes another word of it."""
    plain = word.lower()
    if begins and plain in _WHETHER:
        return f"{plain}?"
    if len(plain) > _STEM and plain.endswith("s") and not plain.endswith("ss"):
        plain = plain[:-1]
    name = (not begins and word[:1].isupper()) or any(letter.isupper() for letter in word[1:])
    return f"^{plain}" if name else _SAID.get(plain, plain)


def _in_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the words that both have come in one order, as often."""
    common: Any = set(one) & set(other)
    return [word for word in one if word in common] == [word for word in other if word in common]


def _hashed(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
