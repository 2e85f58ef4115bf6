"""The command in this process, with the answer it gives a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from symmoe.cli.main import run

import symmoe.build
from symmoe.engines.echo import EchoEngine

from ..conftest import SKILLS, echo_pool
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


@pytest.fixture
def symmoe_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], state: Path) -> Symmoe:
    """Runs `symmoe WORDS` with a tagger and an embedder that need no model."""
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    monkeypatch.setattr(symmoe.build, "build_embedder", lambda pool: ScatteringEmbedder())

    def running(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["symmoe", *map(str, words)])
        capfd.readouterr()
        code = run()
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
