"""Pools that need no model, and engines that say what a test wants them to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import symmoe.build
from symmoe.bench.ways import Contest
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.types import Call, Generation, Question
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question

EXPERTS = ("adder", "speaker", "sorter")
Said = Callable[[str, Call], str]


class SayingEngine(EchoEngine):
    """Says what a function of the expert and the call says; every word is a token. Keeps the calls."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self._said = said
        self.calls: list[tuple[str, Call]] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call in reversed(calls):
            self.calls.append((self._weights, call))
            text = self._said(self._weights, call)
            prompt = sum(len(message.content.split()) for message in call.query.messages)
            yield call, Generation(text, "stop", prompt, len(text.split()))


class Hall:
    """Makes contests over a pool of three saying experts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.engine = SayingEngine(lambda expert, call: f"{expert}: {call.query.text}")

    def contest(
        self, said: Said | None = None, questions: int = 4, temperature: float = 0.7, k: int = 2, **sections: object
    ) -> Contest:
        pool = read_pool(str(echo_pool(self._folder, EXPERTS, engine={"max_model_len": 4096}, **sections)))
        assembly = Assembly(pool)
        if said:
            self.engine = SayingEngine(said)
        assembly.__dict__["engine"] = self.engine
        sampling = pool.sampling.model_copy(update={"temperature": temperature})
        return Contest(assembly, suite(questions), sampling, k, seed=0)

    def asked(self) -> list[str]:
        """Who was called, in alphabetical order."""
        return sorted(expert for expert, _ in self.engine.calls)


def suite(count: int) -> list[Question]:
    """`sums 0` and so on, whose answers are `0` and so on."""
    return [question(f"sums {n}", f"{n}", "sums", "number", ident=f"q{n}") for n in range(count)]


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hall:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    return Hall(tmp_path)
