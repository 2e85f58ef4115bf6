"""Engines that die and stores that go away, at every moment of a job."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symmoe.errors import EngineError, StoreError

from .conftest import Bench, Rows, essence, ids, questions

Benches = Callable[[], Bench]
ROWS: list[dict[str, object] | bytes] = [
    *questions(12, 9),
    b"{",
    {"id": "long", "prompt": "sums " * 64},
    {"id": "sampled", "prompt": "sums 1", "temperature": 1.0},
    {"id": "q0", "prompt": "used before"},
    {"id": "last", "prompt": "nothing at all"},
]

every_fault = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def undisturbed(benches: Benches) -> Bench:
    bench = benches()
    bench.write(*ROWS)
    bench.run()
    return bench


def resumed(bench: Bench) -> Rows:
    bench.engine.lasts = bench.store.lasts = None
    bench.run(resume=True)
    return bench.rows()


def test_a_job_resumed_after_its_engine_died_at_any_generation_gives_the_undisturbed_output(
    undisturbed: Bench, benches: Benches
) -> None:
    for lasts in range(len(undisturbed.engine.asked)):
        bench = benches()
        bench.write(*ROWS)
        bench.engine.lasts = lasts
        with pytest.raises(EngineError):
            bench.run()
        assert essence(resumed(bench)) == essence(undisturbed.rows())
        assert len(bench.engine.asked) == len(undisturbed.engine.asked)


def test_a_job_resumed_after_its_store_failed_at_any_write_gives_the_undisturbed_output(
    undisturbed: Bench, benches: Benches
) -> None:
    for lasts in range(undisturbed.store.writes):
        bench = benches()
        bench.write(*ROWS)
        bench.store.lasts = lasts
        with pytest.raises(StoreError):
            bench.run()
        assert essence(resumed(bench)) == essence(undisturbed.rows())


@every_fault
@given(st.lists(st.tuples(st.sampled_from(["engine", "store"]), st.integers(0, 12)), max_size=6))
def test_a_job_disturbed_again_and_again_gives_the_undisturbed_output_in_the_end(
    undisturbed: Bench, benches: Benches, faults: list[tuple[str, int]]
) -> None:
    bench = benches()
    bench.write(*ROWS)
    for part, after in faults:
        bench.engine.lasts = len(bench.engine.asked) + after if part == "engine" else None
        bench.store.lasts = bench.store.writes + after if part == "store" else None
        try:
            bench.run(resume=True)
        except (EngineError, StoreError):
            continue
        break
    assert essence(resumed(bench)) == essence(undisturbed.rows())
    expected = [row["id"] for row in questions(12)] + [None, "long", "sampled", None, "last"]
    assert ids(bench.rows()) == expected


def test_an_output_from_before_is_kept_beside_the_new_one(undisturbed: Bench) -> None:
    before = undisturbed.output.read_bytes()
    undisturbed.write(*questions(3))
    undisturbed.engine.lasts = len(undisturbed.engine.asked) + 1
    with pytest.raises(EngineError):
        undisturbed.run()
    assert undisturbed.output.with_name("out.jsonl.before").read_bytes() == before
    assert ids(resumed(undisturbed)) == ["q0", "q1", "q2"]


def test_a_job_whose_output_is_written_but_not_recorded_as_finished_writes_it_again_equal(
    undisturbed: Bench, benches: Benches
) -> None:
    bench = benches()
    bench.write(*ROWS)
    bench.store.lasts = undisturbed.store.writes - 1
    with pytest.raises(StoreError):
        bench.run()
    written = bench.output.read_bytes()
    asked = len(bench.engine.asked)
    resumed(bench)
    assert bench.output.read_bytes() == written
    assert len(bench.engine.asked) == asked


def test_each_attempt_that_generates_one_more_ends_with_all_of_them(undisturbed: Bench, benches: Benches) -> None:
    bench = benches()
    bench.write(*ROWS)
    for attempt in count(1):
        bench.engine.lasts = attempt
        try:
            bench.run(resume=True)
        except EngineError:
            continue
        break
    assert len(bench.engine.asked) == len(undisturbed.engine.asked)
    assert essence(bench.rows()) == essence(undisturbed.rows())
