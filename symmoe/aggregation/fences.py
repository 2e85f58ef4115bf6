"""Fences around candidates in a prompt: markers with a code that no candidate can know."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from symmoe.aggregation.cleaning import encodable
from symmoe.types import Query


class Fences:
    """Markers that bear one request's code. A text that holds the code is altered before it is fenced."""

    def __init__(self, code: str) -> None:
        self.code = code

    def fenced(self, texts: Sequence[str], weights: Sequence[float]) -> str:
        """Every text between its markers; `weights`, shares of 1, stand in the opening one."""
        blocks = [
            f"{self._opening(number, weight)}\n{self.without_code(text)}\n{self._closing(number)}"
            for number, (text, weight) in enumerate(zip(texts, weights, strict=True), start=1)
        ]
        return "\n\n".join(blocks)

    def read(self, prompt: str) -> list[str]:
        """The texts in a prompt that `fenced` fenced, in order."""
        pattern = (
            rf"^<<<candidate (\d+) \| weight \d+ % \| {self.code}>>>\n(.*?)\n<<<end of candidate \1 \| {self.code}>>>$"
        )
        return [found[2] for found in re.finditer(pattern, prompt, re.DOTALL | re.MULTILINE)]

    def without_code(self, text: str) -> str:
        """`text` without the code, should it ever hold it."""
        return text.replace(self.code, "·")

    def _opening(self, number: int, weight: float) -> str:
        return f"<<<candidate {number} | weight {round(100 * weight)} % | {self.code}>>>"

    def _closing(self, number: int) -> str:
        return f"<<<end of candidate {number} | {self.code}>>>"


def fences_for(query: Query, texts: Sequence[str], seed: int) -> Fences:
    """The fences of one request. Their code is a digest of seed, question and candidates.

    So equal requests have equal prompts, and nobody who writes a candidate can foresee the code: it changes with it.
    """
    said = [seed, [message.content for message in query.messages], list(texts)]
    return Fences(hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16])


def mentions(text: str, fences: Fences) -> bool:
    """Whether a text repeats the prompt's scaffolding."""
    return fences.code in encodable(text)
