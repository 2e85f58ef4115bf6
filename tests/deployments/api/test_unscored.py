"""A scorer that fails: the experts' records alone decide, which is told, counted, and not given again."""

from __future__ import annotations

from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

import symmoe.build
from symmoe.types import Verdict
from tests.deployments.api.conftest import running

BODY = {
    "model": "symmoe/best",
    "messages": [{"role": "user", "content": "sums 1 2"}],
    "temperature": 0,
    "symmoe": {"explain": True},
}


class Breaking:
    def weigh(self, *_: object) -> list[list[Verdict]]:
        raise MemoryError("no room for the reward model")


@pytest.mark.usefixtures("state")
def test_an_answer_is_given_by_the_records_alone_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmoe.build, "build_scorer", lambda pool: Breaking())
    with running(tmp_path, Settings(cache_seconds=60.0)) as served:
        for number in range(3):
            response = served.post(json=BODY)
            assert response.status_code == 200, response.text
            assert response.headers["x-symmoe-cache"] == "miss"
            (answer,) = response.json()["symmoe"]["answers"]
            assert "records alone: the reward model failed: MemoryError" in answer["why"]
            assert answer["expert"] == "adder"
            served.until("symmoe_unscored_total", number + 1)
