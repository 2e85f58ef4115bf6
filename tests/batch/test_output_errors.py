"""What is told of lines that failed."""

from __future__ import annotations

from symmoe.aggregation.vote import no_answer
from symmoe.batch.lines import BadLine
from symmoe.batch.output import error_row
from symmoe.rows.reading import Row
from symmoe.types import Candidate, Message, Query, Sampling


def test_experts_that_gave_no_answer_are_counted_as_tried() -> None:
    query = Query("q", (Message("user", "Why?"),), Sampling(16))
    mute = [
        Candidate("q", "speaker", 0, "", "error", 0, 0, "resident"),
        Candidate("q", "sorter", 1, " ", "stop", 1, 1, "resident"),
    ]
    refusal = no_answer(query, mute)
    assert refusal is not None
    assert refusal.message.endswith("speaker (failed), sorter (empty)")
    line = BadLine(1, "q", "", "", origin=Row("in", 1, {"prompt": "Why?"}), door="")
    row = error_row(line, [refusal])
    assert (row["attempts"], row["experts"]) == (2, {"speaker": "failed", "sorter": "empty"})
