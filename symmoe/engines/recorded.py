"""An engine that replays recorded answers: the whole pipeline runs on it in seconds, without a model."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.engines.echo import EchoEngine
from symmoe.records.files import Records
from symmoe.types import Generation, Query, Refusal


class RecordedEngine(EchoEngine):
    """Answers a conversation with the loaded expert's recorded answer to it, whatever the sampling.

    Here a model's name is its expert's. What is not on record becomes a failed generation, which is left out beside
    others. Unrecorded counts of completion tokens are estimated from the text.
    """

    def __init__(self, records: Records) -> None:
        super().__init__()
        self._records = records

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuses nothing: everything was answered before."""
        return [None] * len(queries)

    def _answer(self, query: Query) -> Generation:
        found = self._records.answer(self._weights, query.messages)
        if found is None:
            return Generation("", "error", 0, 0)
        return Generation(found.text, found.finish_reason, found.prompt_tokens or 0, found.tokens)
