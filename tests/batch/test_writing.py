"""Windows on their way to the disk: synced and committed in a thread, whatever fails or ends the job meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, get_ident

import pytest

from symmoe.batch.checking import verify
from symmoe.batch.output import open_output
from symmoe.batch.record import Record
from symmoe.errors import EngineError, JobError
from symmoe.pipeline import Watch
from symmoe.types import Call, Candidate, Generation

from .conftest import Bench, CountingEngine, ids, questions

FULL = OSError(28, "No space left on device")
WAITING = 30.0
"""Seconds after which a test that waits for another thread has failed."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmoe.batch.windows.FIRST", 8)
    monkeypatch.setattr("symmoe.batch.windows.LEAST", 8)


def commits(bench: Bench) -> list[int]:
    """How many lines each commit holds."""
    rows = (bench.job().files.folder / "commits").read_bytes().splitlines()[1:]
    return [json.loads(row)["lines"] for row in rows]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_job_whose_disk_is_full_at_any_sync_says_so_and_goes_on_without_asking_again(
    benches: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, left, lasts = os.fsync, 0, 0

    def sync(number: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise FULL
        real(number)

    monkeypatch.setattr(os, "fsync", sync)
    while True:
        bench, left = benches(), lasts
        bench.write(*questions(20), b"{")
        output = bench.folder / name
        try:
            bench.run(k=1, output=output)
        except JobError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - the last round has no error
        else:
            break
        left = 1000
        bench.run(k=1, output=output, resume=True)
        assert len(bench.engine.asked) == 20
        assert verify([bench.source], output).whole
        lasts += 1
    assert lasts > 12


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_job_killed_at_any_sync_has_each_line_once_and_of_none_that_was_written_the_answer_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    output, moments, real = bench.folder / name, tmp_path_factory.mktemp("moments"), os.fsync
    traces = bench.job(output=output).trace
    taken: list[tuple[Path, int]] = []

    def sync(number: int) -> None:
        real(number)
        moment = moments / str(len(taken))
        shutil.copytree(bench.folder, moment)  # what `kill -9` would leave
        taken.append((moment, traces.read_bytes().count(b"\n") if traces.exists() else 0))

    bench.write(*questions(30), b"{")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        bench.run(k=1, output=output)
    assert len(taken) > 12
    for moment, written in taken:
        shutil.rmtree(bench.folder)
        shutil.copytree(moment, bench.folder)
        bench.engine = CountingEngine()
        bench.run(k=1, output=output, resume=True)
        assert len(bench.engine.asked) <= 30 - written
        assert verify([bench.source], output).whole


class Heard(CountingEngine):
    """An engine that dies at a question, and lets a thread know."""

    def __init__(self, dies_at: str) -> None:
        super().__init__()
        self.dies_at, self.died = dies_at, Event()

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        if any(call.query.text == self.dies_at for call in calls):
            self.died.set()
            raise EngineError("the engine died")
        yield from super().generate(calls)


def test_a_window_is_committed_while_the_next_is_asked_and_even_if_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engine = engine = Heard("sums 8")
    bench.write(*questions(16))
    driver, real = get_ident(), os.fsync

    def sync(number: int) -> None:
        assert get_ident() == driver or engine.died.wait(WAITING), "the next window waits for this one"
        real(number)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(EngineError):
        bench.run(k=1)
    assert commits(bench) == [8]
    assert {candidate.query_id for candidate in bench.kept} <= {f"q{number}" for number in range(8, 16)}
    assert ids(bench.rows()) == [f"q{number}" for number in range(8)]


def test_no_candidate_is_kept_and_nothing_shown_before_the_window_before_is_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmoe.batch.job.STATUS_SECONDS", 0.0)
    monkeypatch.setattr("symmoe.batch.job.KEEP_SECONDS", 0.0)
    bench.write(*questions(30))
    heard: list[tuple[int, set[str]]] = []
    shown: list[tuple[int, int]] = []

    def candidates(_: Sequence[Candidate]) -> None:
        heard.append((max(commits(bench), default=0), {candidate.query_id for candidate in bench.kept}))

    bench.run(
        k=1,
        watch=Watch(candidates=candidates),
        on_status=lambda status: shown.append((status.done, max(commits(bench), default=0))),
    )
    assert {committed for committed, _ in heard} == {0, 8, 16, 24}
    for committed, kept in heard:
        assert kept <= {f"q{number}" for number in range(committed, committed + 8)}
    assert shown
    assert all(done <= committed for done, committed in shown)


def test_that_the_disk_is_full_is_told_rather_than_that_too_many_lines_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmoe.batch.job.JUDGED_FROM", 1)
    bench.write(b"{", *questions(20))
    driver, real = get_ident(), os.fsync

    def sync(number: int) -> None:
        if get_ident() != driver:
            raise FULL
        real(number)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(JobError, match="No space left on device"):
        bench.run(max_error_rate=0.01)


def test_candidates_that_cannot_be_brought_to_the_disk_end_the_job_and_are_there_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmoe.batch.record.SYNC_SECONDS", -1.0)
    monkeypatch.setattr("symmoe.batch.job.KEEP_SECONDS", 0.0)
    bench.write(*questions(20))
    file, real = bench.job().files.folder / "candidates", os.fsync

    def sync(number: int) -> None:
        if file.exists() and os.fstat(number).st_ino == file.stat().st_ino:
            raise FULL
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(JobError, match="No space left on device"):
            bench.run(k=1)
    assert 0 < len(bench.kept) <= 8
    bench.run(k=1, resume=True)
    assert verify([bench.source], bench.output).whole


def test_a_file_to_which_nothing_was_added_is_not_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = open_output(tmp_path / "out.jsonl", "job", 0)
    counts = []
    for text in ("", '{"a": 1}', "", '{"b": 2}'):
        if text:
            writer.again(text, None)
        writer.flush()
        writer.sync()
        counts.append(len(synced))
    writer.close()
    assert (counts, len(synced)) == ([1, 2, 2, 3], 3)


def test_a_record_is_committed_as_it_was_when_its_window_ended(bench: Bench) -> None:
    bench.write(*questions(8))
    bench.run()
    record = Record(bench.job().files)
    record.resume()
    record.commit.finished = False
    ended = record.flush()
    record.commit.answered += 1
    record.keep(ended)
    record.close()
    record.resume()
    record.close()
    assert (record.commit.answered, record.commit.finished) == (8, False)
