"""DNS rebinding: a site whose name was made to mean this machine asks a service that wants no keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings

from tests.attacks.door import answered, connected, head
from tests.deployments.access.conftest import keyed, make_key
from tests.deployments.api.conftest import Running, running

UNASKED = {"/health", "/ready"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, Settings(), Open(admin=True)) as service:
        yield service


def every_path(served: Running) -> list[tuple[str, str]]:
    paths = served.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods if path not in UNASKED]


def status(served: Running, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    ask = {"GET": served.get, "DELETE": served.delete, "POST": served.post}[method]
    answer = ask(path, headers=headers, **({"json": {}} if method == "POST" else {}))
    if answer.headers["content-type"] != "application/json" or "error" not in answer.json():
        return answer.status_code, ""
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "forged",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "10.0.0.1:8000"},
        {"host": ""},
        {"host": "localhost@evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost.evil.example:8000"},
        {"origin": "null"},
    ],
)
def test_no_path_is_answered_under_another_name(served: Running, forged: dict[str, str]) -> None:
    paths = every_path(served)
    assert {"/v1/chat/completions", "/v1/files", "/v1/batches", "/v1/models", "/metrics"} <= {path for _, path in paths}
    for method, path in (*paths, ("GET", "/openapi.json"), ("GET", "/nothing")):
        assert status(served, method, path, forged) == (403, "cross_site"), (method, path)


def test_two_hosts_are_not_one(served: Running) -> None:
    with connected(served.url) as connection:
        connection.sendall(head("GET", "/v1/models", "host: evil.example"))
        assert answered(connection)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"])
def test_this_machines_own_names_are_taken(served: Running, host: str) -> None:
    assert served.get("/v1/models", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_names_that_the_operator_gives_are_taken(tmp_path: Path) -> None:
    with running(tmp_path / "a", Settings(hosts=("symmoe.here",))) as served:
        assert served.get("/v1/models", headers={"host": "symmoe.here:8000"}).status_code == 200
        assert served.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    with running(tmp_path / "b", Settings(hosts=("*",))) as served:
        assert served.get("/v1/models", headers={"host": "any.example"}).status_code == 200


def test_with_keys_any_name_will_do(tmp_path: Path, state: Path) -> None:
    key, _ = make_key()
    with keyed(tmp_path, Settings()) as served:
        told = {"authorization": f"Bearer {key}", "host": "llm.example", "origin": "https://app.example"}
        assert served.get("/v1/models", headers=told).status_code == 200
