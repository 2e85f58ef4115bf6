"""A service that anybody on this machine may change, and short ways to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from symmoe.deployments.access.keys import Keys, Open
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running

EXPERTS = "/v1/admin/experts"


@contextmanager
def changeable(folder: Path, settings: Settings, keys: Keys | None = None, **options: Any) -> Iterator[Running]:
    """A service whose experts can be changed, by everybody if there are no `keys`."""
    with running(folder, settings, keys or Open(admin=True), **options) as served:
        yield served


def change(served: Running, name: str, action: str, **options: Any) -> httpx.Response:
    return served.post(f"{EXPERTS}/{name}/{action}", json={"why": "a test"}, **options)


def add(served: Running, name: str, **more: Any) -> httpx.Response:
    return served.post(EXPERTS, json={"expert": {"name": name, "model": "org/base", "adapter": f"./{name}"}, **more})


def ask(served: Running, model: str, text: str = "sums", **options: Any) -> httpx.Response:
    return served.post(json={"model": model, "messages": [{"role": "user", "content": text}], **options})


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def refused(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def listed(served: Running) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in served.get(EXPERTS).json()["data"]}


Later = Callable[..., Future[httpx.Response]]


@pytest.fixture
def later() -> Iterator[Later]:
    """Asks in a thread of its own."""
    with ThreadPoolExecutor(16) as threads:
        yield lambda *words, **options: threads.submit(ask, *words, **options)


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Running]:
    """A service of a test's own with one slot, that remembers nothing."""
    settings = Settings(quarantine_after=0)
    with changeable(tmp_path, settings, engine={"max_num_seqs": 1}, aggregation={"trust": 0.6}) as served:
        yield served
