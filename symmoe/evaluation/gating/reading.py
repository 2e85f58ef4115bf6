"""Hidden states kept on disk as they are read: reading is what takes longest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from symmoe.gating.heads import Floats
from symmoe.gating.states import HiddenStates
from symmoe.types import Query

CHUNK = 256


class KeptStates:
    """Reads answers in chunks, each a file in a folder once it is read; a chunk that stands there is not read again.

    A chunk is the same however often reading was interrupted, and so are its states. Files are named by what was read
    and by `reader`, which names the model.
    """

    def __init__(
        self, states: HiddenStates, folder: Path, reader: str, told: Callable[[str], None] = lambda now: None
    ) -> None:
        self._states, self._folder, self._reader, self._told = states, folder, reader, told

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt and answer states, a row for each candidate of each query, in order."""
        rows = [(query, text) for query, row in zip(queries, candidates, strict=True) for text in row]
        chunks = []
        for start in range(0, len(rows), CHUNK):
            self._told(f"{self._reader}: {start} of {len(rows)} answers read")
            chunks.append(self._chunk(rows[start : start + CHUNK]))
        prompts, answers = zip(*chunks, strict=True)
        return np.concatenate(prompts), np.concatenate(answers)

    def _chunk(self, rows: Sequence[tuple[Query, str]]) -> tuple[Floats, Floats]:
        from safetensors.numpy import load_file, save_file

        told = repr((self._reader, [(query.messages, text) for query, text in rows]))
        file = self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.safetensors"
        if file.is_file():
            kept = load_file(file)
            return kept["prompts"], kept["answers"]
        prompts, answers = self._states([query for query, _ in rows], [[text] for _, text in rows])
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({"prompts": np.ascontiguousarray(prompts), "answers": np.ascontiguousarray(answers)}, partial)
        partial.rename(file)
        return prompts, answers
