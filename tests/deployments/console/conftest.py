"""The console of a running service, in Debian's chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import PATIENCE, Running, running
from tests.stores import state_in

SETTINGS = Settings(traces="text", batch_lease=1.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for a module's tests, which knows no address but this machine's. A loop runs in their thread."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: `apt-get install chromium` brings the one that these tests drive")
    flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with api.sync_playwright() as driver, driver.chromium.launch(executable_path=chromium, args=flags) as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose experts answer together, for everybody on this machine."""
    folder = tmp_path_factory.mktemp("console")
    sections: dict[str, Any] = {"aggregation": {"trust": 0.99}, "routing": {"top_p": 0.9}}
    with state_in(folder), running(folder, SETTINGS, Open(True), console=True, remembers=True, **sections) as served:
        yield served


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a context of its own; whatever a script of it throws, or its policy forbids, fails the test."""
    with browser.new_context(viewport={"width": 1280, "height": 860}) as context:
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.set_default_timeout(1000 * PATIENCE)
        yield page
        assert wrong == []


def ask(page: Any, served: Running, question: str, model: str = "symmoe/best") -> None:
    """Ask a service in the playground, and wait for the answer's end."""
    answered(page, served.url, question, model)


def answered(page: Any, url: str, question: str, model: str) -> None:
    """The same of a service at an address."""
    page.goto(f"{url}/console")
    page.get_by_label("Question").fill(question)
    page.get_by_label("Model").select_option(model)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".status .chip.good").wait_for()


def axe() -> str:
    """The checker of accessibility (axe-core 4.14.1, MPL-2.0; only tests use it)."""
    return Path(__file__).with_name("axe.min.js").read_text(encoding="utf-8")
