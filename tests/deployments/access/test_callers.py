from __future__ import annotations

from pathlib import Path

import openai
import pytest
from symmoe.deployments.access.callers import Caller, bearer, check_exposure, is_loopback
from symmoe.deployments.settings import Settings

from symmoe.errors import JobError
from tests.deployments.api.conftest import running


class OneKey:
    """Knows one key."""

    required = True

    async def caller(self, key: str | None) -> Caller | None:
        return Caller("mine") if key == "sesame" else None


def test_without_the_right_key_nothing_is_told_but_health(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), OneKey()) as served:
        for key in ("wrong", "sesame "):
            with pytest.raises(openai.AuthenticationError) as raised:
                openai.OpenAI(base_url=f"{served.url}/v1", api_key=key + "x", max_retries=0).models.list()
            assert raised.value.code == "invalid_api_key"
        body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
        assert served.post(json=body).status_code == 401
        assert served.post("/v1/route", json=body).status_code == 401
        assert served.get("/v1/models/adder").status_code == 401
        assert served.get("/health").status_code == 200
        right = openai.OpenAI(base_url=f"{served.url}/v1", api_key="sesame", max_retries=0)
        assert right.models.retrieve("adder").id == "adder"


@pytest.mark.parametrize(
    ("header", "key"),
    [(None, None), ("", None), ("Bearer", None), ("Bearer  ", None), ("Basic abc", None), ("bearer abc", "abc")],
)
def test_a_key_is_what_follows_bearer(header: str | None, key: str | None) -> None:
    assert bearer(header) == key


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_a_service_that_others_can_reach_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(JobError, match="no keys"):
        check_exposure(host, False)
    check_exposure(host, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, False)
