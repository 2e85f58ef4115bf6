"""The console of `symmoe serve` with the starter pool on vLLM, as whoever has just installed it sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deployments.serving import client_of

from .conftest import answered

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with client_of("starter", tmp_path_factory.mktemp("state"), ["--traces", "text"]) as client:
        yield f"http://127.0.0.1:{client.base_url.port}"


def test_a_question_its_trace_the_engines_and_the_records(url: str, page: Any) -> None:
    answered(page, url, "What is the capital of France?", "generalist")
    assert "Paris" in page.locator(".answer .words").inner_text()

    answered(page, url, "Write the number 444 as a Roman numeral.", "symmoe/auto")
    answer = page.locator(".answer .words").inner_text()
    assert answer == "CDXLIV"
    way = page.locator(".way")
    for title in ("Skills", "Experts", "Candidates", "Votes", "Times"):
        assert way.get_by_role("heading", name=title).is_visible()
    assert way.locator(".experts tr.on th").first.inner_text().startswith("roman")
    assert way.locator(".experts tbody tr").count() > 10
    assert way.locator(".waterfall .piece.work").count() >= 1

    page.get_by_role("link", name="Trace", exact=True).click()
    page.get_by_role("heading", name="What if").wait_for()
    assert page.locator(".card .words").nth(1).inner_text() == answer
    page.get_by_role("button", name="Look back").click()
    page.get_by_role("status").locator(".words").wait_for()
    assert page.get_by_role("status").locator(".words").inner_text() == answer

    page.goto(f"{url}/console#/pool")
    engines = page.get_by_role("heading", name="Engines").locator("..")
    engines.get_by_text("asleep: Qwen2.5-Coder-1.5B-Instruct").wait_for()
    assert engines.locator(".chip.on").inner_text() == "roman"
    assert "GB" in engines.inner_text()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="roman"))
    assert row.get_by_text("in the engine").is_visible()
    page.locator(".waterfall .piece.work").nth(1).wait_for(state="attached")  # what ran within the last minute

    page.goto(f"{url}/console#/skills")
    page.get_by_text("Nothing has changed since").wait_for()
    assert page.locator(".matrix tbody tr").count() > 20
