"""An expert of the pool names the skills of questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.evaluation.annotation import annotate
from symmoe.routing.keywords import PASSES
from symmoe.types import Call, Generation
from tests.conftest import echo_pool


class NamingEngine(EchoEngine):
    """Names `algebra` in every pass, and another word in each."""

    def __init__(self) -> None:
        super().__init__(window=4096)
        self.asked: list[tuple[str, int | None]] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call in calls:
            self.asked.append((call.query.text, call.query.sampling.seed))
            yield call, Generation(f"Algebra, word {call.query.sampling.seed}, {'x' * 21}", "stop", 10, 5)


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    built = Assembly(read_pool(str(echo_pool(tmp_path))))
    built.engine = NamingEngine()
    return built


def test_a_keyword_is_kept_when_more_than_one_pass_gives_it_and_it_is_short(assembly: Assembly) -> None:
    assert annotate(assembly, "adder", ["Solve x = 1.", "Solve x = 2."], seed=0) == [("algebra",), ("algebra",)]


def test_every_question_is_asked_in_every_pass_each_of_its_own_seed_and_the_annotator_loaded_once(
    assembly: Assembly,
) -> None:
    annotate(assembly, "speaker", ["one", "two", "three"], seed=10)
    engine = assembly.engine
    assert isinstance(engine, NamingEngine)
    assert len(engine.asked) == len(set(engine.asked)) == 3 * PASSES
    assert len({seed for _, seed in engine.asked}) == PASSES
    assert engine.swaps <= 1


def test_a_question_that_the_annotator_cannot_take_has_no_keywords(assembly: Assembly) -> None:
    assembly.engine = EchoEngine(window=60)
    assert annotate(assembly, "adder", ["short", "long " * 100], seed=0)[1] == ()
