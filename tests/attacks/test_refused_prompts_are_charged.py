"""A prompt that is refused for its length uses up its key's tokens: sending them for ever is not for nothing."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import ask, keyed, make_key


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_sends_prompts_far_too_long_is_over_its_limit(tmp_path: Path, stream: bool) -> None:
    hostile, _ = make_key(tokens_per_minute=60)
    friendly, _ = make_key(tokens_per_minute=60)
    with keyed(tmp_path, Settings()) as served:
        with pytest.raises(openai.BadRequestError, match="longer than"):
            ask(served, hostile, "word " * 100_000, stream=stream)
        with pytest.raises(openai.RateLimitError):
            ask(served, hostile, "a short one")
        assert ask(served, friendly, "a short one").status_code == 200
