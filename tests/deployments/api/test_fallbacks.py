"""A dead expert elsewhere: its questions go to the next best, and who named it is answered by its fallbacks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running
from tests.deployments.api.test_refusals import error_of
from tests.deployments.lifecycle.conftest import ask, change, changeable, listed, refused, said

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture(scope="module")
def dead() -> str:
    """The address of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory, dead: str) -> Iterator[Running]:
    far = {"remote": {"url": dead}, "adapter": None}
    more = {"adder": {**far, "fallbacks": ["sorter"], "retries": 0}, "speaker": far}
    names = ("adder", "speaker", "sorter")
    with running(
        tmp_path_factory.mktemp("pool"), Settings(quarantine_after=0), experts=names, first="sorter", more=more
    ) as served:
        yield served


def test_a_routed_question_goes_to_the_next_best(partly: Running) -> None:
    body = {"model": "symmoe/fast", "messages": [{"role": "user", "content": "sums of 1"}]}
    response = partly.post(json=body)
    assert response.json()["choices"][0]["message"]["content"] == "sorter: sums of 1"
    asked, answered = response.headers["x-symmoe-fallback"].split("->")
    assert (asked.split(",")[0], answered) == ("adder", "sorter")


@pytest.mark.parametrize("stream", [False, True])
def test_who_named_it_is_answered_by_its_fallback(partly: Running, stream: bool) -> None:
    body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}], "stream": stream}
    response = partly.post(json=body)
    assert "sorter:" in response.text
    assert response.headers["x-symmoe-fallback"] == "adder->sorter"
    assert response.headers["x-symmoe-experts"] == "sorter"


def test_without_a_fallback_it_is_unavailable(partly: Running) -> None:
    body = {"model": "speaker", "messages": [{"role": "user", "content": "sums"}]}
    response = partly.post(json=body)
    assert error_of(response, 503)["code"] == "expert_unavailable"
    assert "x-symmoe-fallback" not in response.headers


@pytest.mark.parametrize("resting", [("adder",), ("adder", "speaker"), ("speaker",)])
def test_experts_that_may_not_be_asked_are_passed_over_until_one_may(
    tmp_path: Path, dead: str, resting: tuple[str, ...]
) -> None:
    gone = {"adapter": None, "remote": {"url": dead}, "retries": 0, "fallbacks": ["speaker", "sorter"]}
    names, body = ("adder", "speaker", "sorter"), {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
    with changeable(
        tmp_path, Settings(quarantine_after=0), experts=names, first="sorter", more={"adder": gone}
    ) as served:
        for name in resting:
            change(served, name, "quarantine")
        response = served.post(json=body)
    answered = next(name for name in names[1:] if name not in resting)
    assert response.json()["choices"][0]["message"]["content"] == f"{answered}: sums"
    assert response.headers["x-symmoe-fallback"].endswith(f"->{answered}")


class Picky(BaseHTTPRequestHandler):
    """A server that takes no request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def picky() -> Iterator[str]:
    """The address of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Picky) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_a_request_that_a_remote_does_not_take_is_the_client_s_and_no_fault_of_the_remote(
    tmp_path: Path, picky: str
) -> None:
    far = {"adder": {"adapter": None, "remote": {"url": picky}}}
    names = ("adder", "speaker", "sorter")
    with changeable(tmp_path, Settings(quarantine_after=1), experts=names, first="sorter", more=far) as served:
        assert refused(ask(served, "adder")) == (400, "request_not_taken")
        assert not said(ask(served, "symmoe/fast")).startswith("adder")  # another may take it
        assert listed(served)["adder"]["state"] == "active"
