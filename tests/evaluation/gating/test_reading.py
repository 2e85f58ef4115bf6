from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from symmoe.evaluation.gating.reading import CHUNK, KeptStates
from symmoe.gating.heads import Floats
from symmoe.types import Query
from tests.fakes import query


class Lengths:
    """States are lengths; breaks when it is asked for the n-th time."""

    def __init__(self, breaks_at: int = 0) -> None:
        self.rows: list[int] = []
        self._breaks_at = breaks_at

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        if len(self.rows) + 1 == self._breaks_at:
            raise KeyboardInterrupt
        pairs = [(len(q.text), len(text)) for q, row in zip(queries, candidates, strict=True) for text in row]
        self.rows.append(len(pairs))
        states = np.array(pairs, dtype=np.float32)
        return states[:, :1], states[:, 1:]


QUERIES = [query("one"), query("three", "r")]
ROWS = [["x" * n for n in range(1, CHUNK)], ["y", "yy"]]


def test_states_come_in_order_a_chunk_at_a_time(tmp_path: Path) -> None:
    states = Lengths()
    prompts, answers = KeptStates(states, tmp_path, "lengths")(QUERIES, ROWS)
    assert states.rows == [CHUNK, 1]
    assert prompts[:, 0].tolist() == [3.0] * (CHUNK - 1) + [5.0, 5.0]
    assert answers[:, 0].tolist() == [*range(1, CHUNK), 1.0, 2.0]


def test_an_interruption_loses_one_chunk_at_most(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        KeptStates(Lengths(breaks_at=2), tmp_path, "lengths")(QUERIES, ROWS)
    rest = Lengths()
    again = KeptStates(rest, tmp_path, "lengths")(QUERIES, ROWS)
    assert rest.rows == [1]
    whole = KeptStates(Lengths(), tmp_path / "other", "lengths")(QUERIES, ROWS)
    assert all((a == b).all() for a, b in zip(again, whole, strict=True))


def test_what_another_model_read_is_not_taken(tmp_path: Path) -> None:
    KeptStates(Lengths(), tmp_path, "lengths")(QUERIES, ROWS)
    other = Lengths()
    KeptStates(other, tmp_path, "others")(QUERIES, ROWS)
    assert sum(other.rows) == CHUNK + 1
