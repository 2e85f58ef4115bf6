"""Embeddings, as OpenAI has them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from symmoe.limits import EMBEDDED_TEXTS
from symmoe.wire.sampling import Lenient, Text

EMBEDDER = "symmoe/embedder"
"""The name of the embedder that a pool routes with."""


class EmbeddingRequest(Lenient):
    """Texts to be embedded."""

    model: Text = Field(default=EMBEDDER, max_length=200)
    input: Text | list[Text] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1)
    user: Text | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
            raise ValueError("texts, not tokens: whose tokens they are cannot be told")
        if isinstance(value, list) and len(value) > EMBEDDED_TEXTS:
            raise ValueError(f"at most {EMBEDDED_TEXTS} texts")
        return value

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [self.input] if isinstance(self.input, str) else self.input


def embeddings(
    model: str, vectors: NDArray[np.float32], encoding: Literal["float", "base64"] | None, tokens: int
) -> dict[str, Any]:
    """The `[n, d]` vectors of n texts in their order, which had so many tokens together."""
    written: Sequence[Any] = vectors.tolist()
    if encoding == "base64":
        written = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(written)]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
