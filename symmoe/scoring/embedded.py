"""Sentence embeddings as the hidden states that heads read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symmoe.protocols import Embedder
from symmoe.scoring.heads import Floats
from symmoe.types import Query


class EmbeddedStates:
    """A prompt's state is its embedding; an answer's, the embeddings of the answer alone and of both as one text.

    Each distinct text is embedded once.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt states `[n, d]` and answer states `[n, 2d]`."""
        rows = [(query.text, text) for query, row in zip(queries, candidates, strict=True) for text in row]
        wanted = [(prompt, text, f"{prompt}\n{text}") for prompt, text in rows]
        distinct = list(dict.fromkeys(text for trio in wanted for text in trio))
        place = {text: number for number, text in enumerate(distinct)}
        vectors = self._embedder.embed(distinct)
        prompts, alone, both = (vectors[[place[trio[part]] for trio in wanted]] for part in range(3))
        return prompts, np.hstack([alone, both])
