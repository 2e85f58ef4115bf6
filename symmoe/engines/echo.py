"""A deterministic engine with no model, for unit tests of everything around an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from symmoe.types import Call, Generation, Query, Refusal


class EchoEngine:
    """Answers every prompt with the name of the weights that are loaded and the prompt itself."""

    def __init__(self, window: int = 4096) -> None:
        self._window = window
        self._model: str | None = None
        self._weights = ""
        self.starts = 0
        self.swaps = 0

    @property
    def model(self) -> str | None:
        """The model given to `start`."""
        return self._model

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """Refuse prompts of more words than the window."""
        return [
            Refusal(query.id, "context_length_exceeded", f"longer than {self._window} words")
            if len(query.text.split()) >= self._window
            else None
            for query in queries
        ]

    def start(self, model: str) -> None:
        """Take the name of the model as the weights."""
        self.starts += 1
        self._model, self._weights = model, Path(model).name

    def swap(self, model: str, adapter: str | None) -> int:
        """Take the name of the adapter as the weights."""
        self.swaps += 1
        self._weights = Path(adapter or model).name
        return len(self._weights)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Echo, last call first: nothing may rely on the order in which calls finish."""
        for call in reversed(calls):
            text = f"{self._weights}: {call.query.text}"
            yield call, Generation(text, "stop", len(call.query.text.split()), len(text.split()))

    def close(self) -> None:
        """Forget the weights."""
        self._model, self._weights = None, ""
