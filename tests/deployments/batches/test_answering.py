"""How often a line is asked that is turned away each time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from symmoe.deployments.api.batch_lines import LineAnswers
from symmoe.deployments.batches.answering import Answering
from symmoe.deployments.batches.batches import BatchRecord
from symmoe.deployments.events import TurnedAway, TurnedAwayError

from tests.deployments.batches.conftest import line, resources


class Refusing:
    """A service that turns away a line so many times, one whose only line it is, and where its row goes."""

    def __init__(self, why: TurnedAway, times: int) -> None:
        self._why, self._times = why, times
        self.asked = 0
        self.rows: list[dict[str, Any]] = []

    async def complete(self, *_: object) -> dict[str, Any]:
        self.asked += 1
        if self.asked <= self._times:
            raise TurnedAwayError(self._why)
        return {"text": "at last"}

    def weight(self, number: int) -> int:
        return 0

    def read(self, number: int) -> dict[str, Any]:
        return line(number)

    async def put(self, batch: str, number: int, row: Sequence[str], count: str) -> None:
        self.rows.append(json.loads("".join(row)))


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        (429, "overloaded", 21),
        (503, "expert_unavailable", 21),
        (503, "expert_lost", 8),
        (503, "no_answer", 8),
        (400, "request_not_taken", 1),
    ],
)
def test_what_the_line_itself_may_cause_is_not_asked_until_the_window_ends(status: int, code: str, asked: int) -> None:
    refusing: Any = Refusing(TurnedAway(status, code, "no"), 20)

    async def run() -> None:
        means = resources(LineAnswers(refusing), refusing, room=1, pause=1e-6)
        batch = BatchRecord("b", "me", "in", "out", "err", 0, 1 << 40)
        await Answering(batch, cast(Any, refusing), means).run([1])

    asyncio.run(asyncio.wait_for(run(), 60))
    assert refusing.asked == asked
    (row,) = refusing.rows
    assert row["response"]["status_code"] == (200 if asked > 20 else status)
