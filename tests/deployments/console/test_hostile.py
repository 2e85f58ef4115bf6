"""Text that others wrote does nothing: not in questions and answers, not in skills, not in the names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.access.keys import Open

from symmoe.config import read_pool
from symmoe.yaml_text import load_yaml
from tests.conftest import echo_pool
from tests.deployments.api.conftest import Running, running
from tests.stores import state_in

from .conftest import SETTINGS, ask

TURNED = "\u202egnorw\u202c"
TEXTS = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    "[here](javascript:document.title='taken')",
    "![x](https://elsewhere.example/pixel.png) <b>bold</b>",
    f"sums {TURNED}",
    "\"'><svg/onload=document.title='taken'>",
)


@pytest.mark.parametrize("text", [TEXTS[0], pytest.param(TEXTS[1], marks=pytest.mark.slow)])
def test_a_hostile_answer_is_text(served: Running, page: Any, text: str) -> None:
    _harmless(served, page, text)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS[2:])
def test_so_is_any_other(served: Running, page: Any, text: str) -> None:
    _harmless(served, page, text)


def _harmless(served: Running, page: Any, text: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, served, text)
    shown = text.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd")
    assert page.locator(".answer .words").inner_text() == f"adder: {shown}"
    page.get_by_role("link", name="Trace", exact=True).click()
    page.get_by_role("heading", name="What if").wait_for()
    assert page.locator(".way .words").first.inner_text() == shown
    _untouched(page)
    assert {url.split("/")[2] for url in asked} == {served.url.split("/")[2]}


def _untouched(page: Any) -> None:
    assert "taken" not in page.title()
    assert page.locator("main script, main img, main iframe, main b:has-text('bold')").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0


@pytest.mark.slow
def test_a_hostile_file_name_is_text(served: Running, page: Any) -> None:
    name = "<img src=x onerror=document.title='taken'>.jsonl"
    page.goto(f"{served.url}/console#/batches")
    page.get_by_label("File", exact=True).set_input_files({"name": name, "mimeType": "text/plain", "buffer": b"{}\n"})
    page.get_by_role("button", name="Upload and start").click()
    page.get_by_role("rowheader", name=name).first.wait_for()
    _untouched(page)


@pytest.mark.slow
def test_a_hostile_skill_is_text(tmp_path: Path, page: Any) -> None:
    skill = "<img src=x onerror=document.title='taken'>"
    file = echo_pool(tmp_path)
    for part in ("taxonomy.yaml", "profiles.json"):
        path = tmp_path / part
        path.write_text(path.read_text(encoding="utf-8").replace("sums", skill), encoding="utf-8")
    assert load_yaml((tmp_path / "taxonomy.yaml").read_text(encoding="utf-8"))["skills"][0]["name"] == skill
    with (
        state_in(tmp_path / "own"),
        running(tmp_path, SETTINGS, Open(True), console=True, remembers=True, pool=read_pool(str(file))) as served,
    ):
        page.goto(f"{served.url}/console#/skills")
        page.get_by_role("rowheader", name=skill).wait_for()
        page.get_by_label("Skill", exact=True).select_option(skill)
        page.get_by_text("Nothing has changed since").wait_for()
        _untouched(page)


@pytest.mark.slow
def test_a_hostile_reason_is_text_and_a_hostile_expert_does_not_join(served: Running, page: Any) -> None:
    served.post("/v1/admin/experts/sorter/drain", json={"why": TEXTS[1]})
    page.goto(f"{served.url}/console#/pool")
    page.get_by_text(TEXTS[1]).wait_for()
    page.get_by_text("Add an expert").click()
    page.get_by_label("Name").fill(TEXTS[0])
    page.get_by_label("Model").fill("org/base")
    page.get_by_role("button", name="Add", exact=True).click()
    page.locator("#told").get_by_text("expert.name").wait_for()
    _untouched(page)
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="sorter"))
    row.get_by_role("button", name="Resume").click()
    row.get_by_text("active").wait_for()


@pytest.mark.slow
def test_a_megabyte_of_an_answer_leaves_the_page_alive(served: Running, page: Any) -> None:
    text = "sums" + "<b>x</b>" * 120_000
    ask(page, served, text, "adder")
    assert len(page.locator(".answer .words").inner_text()) > 900_000
    _untouched(page)
    page.get_by_role("link", name="Traces").click()
    page.locator("tbody tr").first.wait_for()
