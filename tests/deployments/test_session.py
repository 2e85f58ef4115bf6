from __future__ import annotations

import os
import sys

import pytest
from symmoe.deployments.session import ray_session

from symmoe.errors import JobError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it could not be found
    with pytest.raises(JobError) as raised, ray_session(2):
        pass
    assert "symmoe[serve]" in str(raised.value.hint)


def test_a_ray_client_address_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(JobError, match="cannot stream") as raised, ray_session(2, "ray://somewhere:10001"):
        pass
    assert "HOST:PORT" in str(raised.value.hint)
