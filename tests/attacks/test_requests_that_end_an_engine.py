"""What ended an engine is not given to the next one; what only ran beside it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from symmoe.deployments.engine_loop import EngineLoop
from symmoe.deployments.events import Asked, End, Finished, Piece, Tell, TurnedAway, ended
from symmoe.deployments.experts import LOST, Experts
from symmoe.deployments.lifecycle.lifecycle import AdmittedExperts
from symmoe.deployments.lifecycle.roster import Roster

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.planning.turns import Turns
from symmoe.types import Delta, Generation, Prompt, Query, Refusal
from tests.conftest import echo_pool
from tests.deployments.test_engine_loop import Heard
from tests.fakes import query

ANSWER = Finished(Generation("yes", "stop", 1, 1))


class Losing(Experts):
    """Loses what it is asked as it is told, then answers."""

    def __init__(self, *losses: TurnedAway) -> None:
        self.losses, self.asked = list(losses), list[str]()

    async def ask(self, asked: Asked, tell: Tell) -> End:
        self.asked.append(asked.id)
        return self.losses.pop(0) if self.losses else ANSWER


def asked(schema: str | None = None) -> Asked:
    plain = query("one two")
    return Asked("1", "adder", replace(plain, sampling=replace(plain.sampling, schema=schema)), "me", 60.0)


def end_of(experts: Experts, one: Asked, folder: Path) -> End:
    roster = Roster(read_pool(str(echo_pool(folder))))
    admitted = AdmittedExperts(experts, roster, failed=lambda *_: None, answered=lambda _: None)
    return asyncio.run(admitted.ask(one, lambda event: None))


BESIDE = replace(LOST, bystander=True)


@pytest.mark.parametrize("losses", [(LOST,), (BESIDE,), (BESIDE, BESIDE), (BESIDE, LOST), (LOST, BESIDE)])
def test_what_may_be_innocent_is_answered(losses: tuple[TurnedAway, ...], tmp_path: Path) -> None:
    experts = Losing(*losses)
    assert end_of(experts, asked(), tmp_path) == ANSWER
    assert len(set(experts.asked)) == len(losses) + 1


@pytest.mark.parametrize("losses", [(LOST, LOST), (BESIDE, LOST, LOST), (BESIDE, BESIDE, BESIDE)])
def test_what_ended_two_engines_is_not_given_to_another(losses: tuple[TurnedAway, ...], tmp_path: Path) -> None:
    experts = Losing(*losses)
    assert end_of(experts, asked(), tmp_path) == losses[-1]
    assert len(experts.asked) <= 3


@pytest.mark.parametrize("loss", [LOST, BESIDE])
def test_a_request_with_a_schema_is_never_given_to_a_second_engine(loss: TurnedAway, tmp_path: Path) -> None:
    experts = Losing(loss)
    assert end_of(experts, asked('{"type": "object"}'), tmp_path) == loss
    assert experts.asked == ["1"]


class Mined(EchoEngine):
    """Never comes to an end, but breaks in the step after it was given a question with the word `mine`."""

    def __init__(self) -> None:
        super().__init__()
        self._mined = False

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        self._mined = self._mined or "mine" in query.text.split()
        return super().add(ident, query, stream)

    def step(self) -> list[Delta]:
        if self._mined:
            self._mined = False
            raise RuntimeError("the engine broke")
        return [Delta(ident, "word ") for ident in self._open]


@pytest.fixture
def mined(tmp_path: Path) -> Iterator[tuple[EngineLoop, Heard]]:
    pool, engine, heard = read_pool(str(echo_pool(tmp_path))), Mined(), Heard()

    def build() -> Assembly:
        assembly = Assembly(pool)
        assembly.engine = engine
        return assembly

    loop = EngineLoop(build, Turns(4, 100, 5.0), heard.tell, stall=30.0, slowest_load=300.0)
    loop.start(lambda: "adder")
    yield loop, heard
    loop.stop()


def test_an_engine_that_breaks_tells_who_ran_before_from_who_had_just_come(mined: tuple[EngineLoop, Heard]) -> None:
    loop, heard = mined
    loop.submit(Asked("before", "adder", query("a word"), "me", 60.0, stream=True))
    heard.until("before", Piece)
    loop.submit(Asked("guilty", "adder", query("a mine"), "you", 60.0))
    ends = {ident: heard.end(ident) for ident in ("before", "guilty")}
    assert all(isinstance(end, TurnedAway) and end.again for end in ends.values())
    assert [end.bystander for end in ends.values() if isinstance(end, TurnedAway)] == [True, False]


@pytest.mark.parametrize("reason", ["error", "abort", "repetition", "", "no such reason"])
@pytest.mark.parametrize("held", [True, False])
def test_an_end_that_is_no_answer_s_is_an_error(reason: str, held: bool) -> None:
    end = ended(Generation("", reason, 3, 0), held)
    assert isinstance(end, TurnedAway)
    assert (end.status, end.spent) == (400 if held else 500, 3)
