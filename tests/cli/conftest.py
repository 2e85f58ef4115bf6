"""The command in this process, with the answer it gives a terminal."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import symmoe.cli.main
from pyarrow.fs import S3FileSystem
from typer.main import get_command

import symmoe.build
from symmoe.engines.echo import EchoEngine

from ..clusters import wait_for
from ..conftest import SKILLS, echo_pool
from ..environments import environment
from ..fakes import NamingTagger, ScatteringEmbedder


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that begin with `error:`; there is no traceback beside them."""
        assert "Traceback" not in self.err
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Symmoe = Callable[..., Said]


@cache
def whole_command() -> Any:
    """`symmoe` with all its commands; it is made once, as that takes longer than what most of them do."""
    return get_command(symmoe.cli.main.app)


@pytest.fixture
def symmoe_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], state: Path) -> Symmoe:
    """Runs `symmoe WORDS` with a tagger and an embedder that need no model."""
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    monkeypatch.setattr(symmoe.build, "build_embedder", lambda pool: ScatteringEmbedder())
    monkeypatch.setattr(symmoe.cli.main, "app", whole_command())

    def running(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["symmoe", *map(str, words)])
        capfd.readouterr()
        code = symmoe.cli.main.run()
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return running


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return echo_pool(tmp_path / "pool")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "a", "prompt": "sums 1"}\n{"id": "b", "prompt": "spanish 2"}\n', encoding="utf-8")
    return path


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine may be started."""

    def refuse(*words: object) -> None:
        raise AssertionError(f"an engine was started: {words}")

    for method in ("start", "swap", "generate"):
        monkeypatch.setattr(EchoEngine, method, refuse)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    """A server that speaks S3, which the environment names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = environment(Path(__file__).with_name("s3_server.txt"))
    server = subprocess.Popen(
        [python.with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    told = {"ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    for name, value in {**told, "REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        wait_for(lambda: _listens(port), "a server that speaks S3")
        yield S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
