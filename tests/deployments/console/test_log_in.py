"""Logging in as a person does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import keyed, make_key


@pytest.mark.slow
def test_a_person_logs_in_and_out(state: Path, tmp_path: Path, page: Any) -> None:
    with ThreadPoolExecutor(1) as aside:  # the browser's loop runs in this thread
        key, record = aside.submit(make_key).result()
    with keyed(tmp_path, Settings(), console=True) as served:
        page.goto(f"{served.url}/console")
        page.get_by_label("Key").fill("sk-none")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("not known here").wait_for()
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_label("Question").wait_for()
        assert page.get_by_role("link", name="Pool").count() == 0
        assert page.evaluate("document.cookie") == ""
        page.get_by_text(record.id).wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Key").wait_for()
