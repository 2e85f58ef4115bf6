"""A pool whose experts nobody has records of yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running

BODY = {"messages": [{"role": "user", "content": "spanish five"}]}


def ready(served: Running) -> None:
    while served.get("/ready").status_code == 503:
        pass


def test_the_fallback_answers_where_no_description_is_near(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), routing={"profiles": None, "fallback": "sorter"}) as served:
        ready(served)
        for model in ("symmoe/auto", "symmoe/fast", "symmoe/best"):
            answer = served.post(json={**BODY, "model": model})
            assert answer.json()["choices"][0]["message"]["content"] == "sorter: spanish five"
        told = served.post("/v1/route", json={**BODY, "model": "symmoe/auto"}).json()
        assert told["asked"] == ["sorter"]
        assert "descriptions" in told["explanation"]["note"]


def test_without_a_fallback_somebody_answers_all_the_same(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), routing={"profiles": None}) as served:
        ready(served)
        answer = served.post(json={**BODY, "model": "symmoe/auto"})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"].endswith(": spanish five")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_it_is_well_all_the_same(tmp_path: Path, path: str) -> None:
    with running(tmp_path, Settings(), routing={"profiles": None}) as served:
        ready(served)
        assert served.get(path).status_code == 200
