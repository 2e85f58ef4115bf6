"""A request with a deadline whose best expert does not answer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from symmoe.deployments.events import Asked, End, EngineState, Tell
from symmoe.deployments.experts import Experts
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import PATIENCE, running


class Holding:
    """Experts of whom one does not answer once it is held."""

    def __init__(self, experts: Experts) -> None:
        self._experts, self.held = experts, ""
        self.given_up = threading.Event()

    async def ask(self, asked: Asked, tell: Tell) -> End:
        if asked.expert == self.held:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up.set()
        return await self._experts.ask(asked, tell)

    async def warm(self) -> bool:
        return await self._experts.warm()

    async def engines(self) -> list[EngineState]:
        return await self._experts.engines()


def test_others_are_asked_beside_who_is_late_and_the_response_tells_so(tmp_path: Path) -> None:
    reached: list[Holding] = []

    def through(experts: Experts) -> Holding:
        reached.append(Holding(experts))
        return reached[0]

    body = {"model": "symmoe/best", "messages": [{"role": "user", "content": "sums"}]}
    options = {"quality": 0.0, "deadline": PATIENCE, "explain": True}
    with running(tmp_path, Settings(), experts=("adder", "speaker", "sorter"), through=through) as served:
        for _ in range(5):  # until it is known how long it usually takes
            plain = served.post(json=body | {"symmoe": options})
        asked = plain.json()["symmoe"]["traces"][0]
        (first,) = [candidate["expert"] for candidate in asked["candidates"]]
        reached[0].held = first
        for stream in (False, True):
            response = served.post(json=body | {"symmoe": options, "stream": stream})
            second = asked["recruited"][1]
            assert response.headers["x-symmoe-hedged"] == f"late:{second}|{first}"
            assert f"{second}: sums" in response.text
            assert reached[0].given_up.wait(PATIENCE)
        served.until('symmoe_hedges_total{why="late"}', 2)
        told = served.post(json=body | {"symmoe": options}).json()["symmoe"]["traces"][0]
    assert "x-symmoe-hedged" not in plain.headers
    assert told["unheard"] == [first]
    assert [(hedge["experts"], hedge["beside"]) for hedge in told["hedges"]] == [([second], [first])]
