"""What the log is told of an error that nobody foresaw."""

from __future__ import annotations

import logging

import pytest
from symmoe.deployments.errors import internal_error

from symmoe.wire.answers import envelope


def _fail(prompt: str) -> None:
    raise RuntimeError(f"cannot answer {prompt}")


def test_the_log_says_where_it_happened_and_nothing_of_the_prompt(caplog: pytest.LogCaptureFixture) -> None:
    prompt = "-".join(("a", "secret", "question"))  # put together, as the log shows lines of source
    with caplog.at_level(logging.ERROR):
        try:
            _fail(prompt)
        except RuntimeError as error:
            told = internal_error(error, "something went wrong here")
    assert (told.status, told.code) == (500, "internal_error")
    assert "RuntimeError" in caplog.text
    assert "_fail" in caplog.text
    assert prompt not in caplog.text
    assert prompt not in str(envelope(told))
