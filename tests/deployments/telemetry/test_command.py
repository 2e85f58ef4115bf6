"""`symmoe serve --log json`: the ingress is another process, and its lines appear here."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import echo_pool


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_lines_appear_on_stderr_and_no_other(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--pool", str(echo_pool(tmp_path)), "--port", str(port), "--log", "json"]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    root = Path(__file__).parents[3]
    with psutil.Popen(command, cwd=root, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert "is ready at" in process.stdout.readline()
        body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=body, headers={"x-request-id": "mine"}, timeout=60).status_code == 200
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    line, *rest = said.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["experts"]) == ("mine", ["adder"])
    assert rest == ["finishing open requests"]
