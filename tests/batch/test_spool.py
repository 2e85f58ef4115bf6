"""Jobs whose experts are asked in several windows before the next is loaded, where loading is dear."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from symmoe.batch.checking import Seen, Share, report, verify
from symmoe.batch.lines import LineReader
from symmoe.batch.progress import Progress, Status
from symmoe.batch.record import Candidates
from symmoe.batch.spool import Spool
from symmoe.batch.windows import LARGEST, MOST_TOGETHER, Window, choose_window
from symmoe.errors import EngineError
from symmoe.planning.costs import ExpertCost
from symmoe.rows.shapes import Reading
from symmoe.types import Call, Candidate, Generation

from .conftest import Bench, CountingEngine, Rows, content, essence, questions
from .test_windows import Broken

TOGETHER = Window(8, "as the test wants", 8, together=3)
ALONE = Window(8, "as the test wants", 8)


@pytest.fixture(autouse=True)
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[Window], None]:
    """Sets how jobs go through windows: three together, until told otherwise."""

    def choose(window: Window) -> None:
        monkeypatch.setattr("symmoe.batch.job.choose_window", lambda costs, loads: window)

    choose(TOGETHER)
    return choose


def changes(bench: Bench, **options: Any) -> list[str]:
    """The experts that a run loads, in order."""
    return [load.expert for load in bench.run(**options).loads if load.lane != "resident"]


def test_each_expert_is_loaded_once_for_several_windows_and_there_and_back(bench: Bench) -> None:
    bench.write(*questions(56))
    assert changes(bench) == ["adder", "speaker", "sorter", "speaker", "adder", "speaker", "sorter"]
    assert verify([bench.source], bench.output).whole


def varied() -> Rows:
    """Lines of every kind: repeated, sampled, with later turns, for one expert, and such that cannot be asked."""
    rows = questions(40, 30)
    rows[5] = {"id": "turns", "turns": ["sums 1", "spanish 2", "sums 3"]}
    rows[11] = {"id": "bad", "prompt": 7}
    body = {"model": "sorter", "messages": [{"role": "user", "content": "sums 8"}], "temperature": 0.7, "n": 2}
    rows[17] = {"custom_id": "named", "method": "POST", "url": "/v1/chat/completions", "body": body}
    rows[23] = {"id": "long", "prompt": "sums " * 500}
    return rows


@pytest.mark.parametrize("k", [1, 3])
def test_the_rows_are_those_of_a_job_that_goes_window_by_window(
    benches: Callable[[], Bench], together: Callable[[Window], None], k: int
) -> None:
    rows, seen = varied(), []
    for window in (TOGETHER, ALONE):
        together(window)
        bench = benches()
        bench.write(*rows)
        result = bench.run(k=k)
        seen.append((essence(bench.rows()), bench.traces(), sorted(bench.engine.asked), result.failed))
    spooled, plain = seen
    assert spooled[0] == plain[0]
    assert [trace["answer"] for trace in spooled[1]] == [trace["answer"] for trace in plain[1]]
    assert [trace["recruited"] for trace in spooled[1]] == [trace["recruited"] for trace in plain[1]]
    assert spooled[2:] == plain[2:]


@pytest.mark.parametrize("seed", range(6))
def test_a_job_that_ends_at_any_moment_is_gone_on_with_and_asks_nothing_twice(
    benches: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("symmoe.batch.job.KEEP_SECONDS", 0.0)
    monkeypatch.setattr("symmoe.batch.record._DROPPED_BYTES", 100 if seed % 2 else 1 << 20)
    draw, whole, bench, resumed = random.Random(seed), benches(), benches(), 0
    for each in (whole, bench):
        each.write(*questions(60))
    whole.run()
    while True:
        bench.engine.lasts = len(bench.engine.asked) + draw.randint(1, 30)
        try:
            result = bench.run(resume=True)
        except EngineError:
            continue
        resumed += result.resumed
        break
    assert sorted(bench.engine.asked) == sorted(set(whole.engine.asked))
    assert essence(bench.rows()) == essence(whole.rows())
    assert verify([bench.source], bench.output).whole
    assert resumed > 0


@pytest.mark.parametrize("broken", [{"unloaded": ["speaker"]}, {"mute": ["speaker"]}])
def test_questions_of_an_expert_that_fails_go_to_the_next_best(bench: Bench, broken: dict[str, list[str]]) -> None:
    bench.engine = Broken(**broken)
    bench.write(*questions(40))
    result = bench.run(k=1, stop=False)
    assert (result.answered, result.failed) == (40, 0)
    assert list(result.lost) == ["speaker"]
    assert {trace["recruited"][0] for trace in bench.traces()} == {"adder", "sorter"}


def test_an_expert_that_breaks_at_one_question_is_asked_the_others(
    benches: Callable[[], Bench], together: Callable[[Window], None]
) -> None:
    seen = []
    for window in (TOGETHER, ALONE):
        together(window)
        bench = benches()
        bench.engine = Breaking()
        bench.write(*questions(96))
        result = bench.run(k=1, stop=False)
        assert (result.failed, result.lost) == (0, {})
        assert "this one ends me" in bench.traces()[41]["failed"]["speaker"]
        seen.append([trace["recruited"] for trace in bench.traces()])
    assert seen[0] == seen[1]


class Breaking(CountingEngine):
    """An engine that breaks at one question of one expert."""

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            if (call.expert, call.query.text) == ("speaker", "spanish 41"):
                raise EngineError("this one ends me")
            yield call, generation


@pytest.mark.parametrize(("windows_written", "edited"), [(0, 3), (1, 3), (1, 13), (1, None)])
def test_what_an_earlier_run_left_does_not_make_the_file_grow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, windows_written: int, edited: int | None
) -> None:
    monkeypatch.setattr("symmoe.batch.record._DROPPED_BYTES", 1000)
    rows, sizes = questions(240), list[int]()
    bench.write(*rows)

    def stop_once_written(status: Status) -> None:
        if status.done >= 8 * windows_written and bench.kept:
            raise KeyboardInterrupt

    monkeypatch.setattr("symmoe.batch.job.STATUS_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        bench.run(on_status=stop_once_written)
    largest = (bench.job().files.folder / "candidates").stat().st_size
    if edited is not None:
        rows[edited]["prompt"] = "sums 99"
        bench.write(*rows)
    (bench.job().files.folder / "candidates.part").write_bytes(b"half of it")
    kept = bench.job().files.folder / "candidates"
    bench.run(resume=True, on_status=lambda status: sizes.append(kept.stat().st_size if kept.exists() else 0))
    assert max(sizes) < 4 * max(largest, 10_000)
    assert verify([bench.source], bench.output).whole
    assert sorted(path.name for path in bench.job().files.folder.iterdir()) == ["commits", "lines", "status"]


def test_a_disk_that_takes_a_part_of_what_is_written_loses_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FileIO):
        def write(self, data: Any) -> int:
            return os.write(self.fileno(), data[:50])

    kept, digests = Candidates(tmp_path), {f"q{n}": f"{n:032x}" for n in range(3)}
    said = [Candidate(f"q{n}", "adder", 0, f"text {n}", "stop", 1, 1, "resident") for n in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode, **_: Slow(path, mode))
        kept.add(said, digests, later=True)
    assert kept.find(digests) == (said, 0)
    kept.close()


def test_answers_of_a_line_that_was_edited_meanwhile_are_not_used(bench: Bench) -> None:
    bench.write(*questions(40))
    bench.engine.lasts = 35
    with pytest.raises(EngineError):
        bench.run()
    bench.engine.lasts = None
    rows = questions(40)
    rows[3]["prompt"] = "sums 99"
    bench.write(*rows)
    bench.run(resume=True)
    assert content(bench.rows()[3]).endswith("sums 99")
    assert sorted(set(bench.engine.asked)) == sorted(bench.engine.asked)


def test_rows_without_an_id_that_are_equal_to_written_ones_are_not_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symmoe.batch.job.STATUS_SECONDS", 0.0)
    monkeypatch.setattr("symmoe.pipeline._MOST_RECENT", 0)
    bench.write(*({"prompt": f"sums {number % 8}"} for number in range(24)))

    def stop_once_written(status: Status) -> None:
        if status.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(k=1, on_status=stop_once_written)
    asked = len(bench.engine.asked)
    result = bench.run(k=1, resume=True)
    assert (len(bench.engine.asked) - asked, result.resumed) == (0, 16)


def test_candidates_are_found_by_their_lines_and_dropped_once_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(number: int) -> Candidate:
        return Candidate(f"q{number}", "adder", 0, f"text {number}", "stop", 1, 1, "resident")

    monkeypatch.setattr("symmoe.batch.record._DROPPED_BYTES", 0)
    digests = {f"q{number}": f"{number:032x}" for number in range(100)}
    first = Candidates(tmp_path)
    first.add([said(number) for number in range(60)], digests)
    first.close()
    size = (tmp_path / "candidates").stat().st_size / 60
    kept = Candidates(tmp_path)
    kept.recall()
    kept.add([said(number) for number in range(60, 100)], digests, later=True)
    assert kept.find({"q5": digests["q6"]}) == ([], 0)
    assert kept.find({name: digests[name] for name in ("q5", "q70")}, take=False) == ([said(5)], 1)
    for number in range(100):
        own = {f"q{number}": digests[f"q{number}"]}
        assert kept.find(own) == ([said(number)], int(number < 60))
        assert kept.find(own) == ([], 0)
        kept.add([said(number)] * 5, digests)
        kept.clear()
        assert (tmp_path / "candidates").stat().st_size <= (2 * 100 + 6) * size
    assert (tmp_path / "candidates").stat().st_size == 0
    kept.close()


def test_what_waits_has_no_name_by_which_others_could_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    places = [spool.put({"window": number}) for number in range(3)]
    assert [spool.get(place) for place in reversed(places)] == [{"window": 2}, {"window": 1}, {"window": 0}]
    assert list(tmp_path.iterdir()) == []
    spool.close()


@pytest.mark.parametrize(
    ("request_seconds", "windows"), [(0.05, 17), (0.02, 41), (0.8, 2), (0.01, MOST_TOGETHER)], ids=str
)
def test_as_many_windows_wait_as_loading_is_dear(request_seconds: float, windows: int) -> None:
    window = choose_window({f"e{n}": ExpertCost(90.0, request_seconds, swap=60.0) for n in range(10)})
    assert (window.lines, window.together) == (LARGEST, min(windows, MOST_TOGETHER))
    assert f"{window.together} of them on disk" in window.why


@pytest.mark.parametrize("window", [TOGETHER, ALONE], ids=["together", "alone"])
def test_a_job_says_how_much_is_done_and_how_long_the_rest_takes(
    bench: Bench, together: Callable[[Window], None], monkeypatch: pytest.MonkeyPatch, window: Window
) -> None:
    together(window)
    monkeypatch.setattr("symmoe.batch.job.STATUS_SECONDS", 0.0)
    monkeypatch.setattr("symmoe.batch.job.KEEP_SECONDS", 0.0)
    seen: list[tuple[float | None, float | None]] = []
    bench.write(*questions(60))
    bench.run(on_status=lambda status: seen.append((status.share, status.left)))
    shares = [share or 0.0 for share, _ in seen]
    assert all(after > before - 0.03 for before, after in pairwise(shares))  # the input's length is estimated
    assert 0.0 <= shares[0] < 0.1
    assert all(left is not None for _, left in seen[len(seen) // 2 :])
    assert seen[-1] == (1.0, 0.0)


def rows_in(path: Path, rows: Rows) -> Path:
    """A file of rows as its name says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.parquet", "in.arrow"])
def test_the_part_of_a_file_that_was_read_is_known_whatever_the_file_is(bench: Bench, name: str, share: float) -> None:
    rows = [
        {"id": f"q{n}", "prompt": f"我想知道第 {n} 个问题的答案 {random.Random(n).random()}" * 9} for n in range(8000)
    ]
    path = rows_in(bench.folder / name, rows)
    lines = LineReader(bench.job().pool, None, Reading()).read(path, share=share)
    for _ in islice(lines, round(4000 * share)):
        pass
    assert lines.share == pytest.approx(0.5, abs=0.13)
    assert sum(1 for _ in lines) == lines.count - round(4000 * share)
    assert lines.share == 1.0


class Input:
    """Lines of which so many were read, and such a part of their bytes."""

    def __init__(self, count: int, share: float | None) -> None:
        self.count, self.share = count, share


def test_how_long_an_input_is_is_told_by_the_part_that_was_read() -> None:
    read = Input(100, 0.1)
    progress = Progress(read, begun_with=0)
    progress.takes(50)
    progress.asks(100)
    progress.hears(50)
    assert progress.now(written=0, seconds=10.0) == (0.025, 390.0)
    progress.hears(50)
    assert progress.now(written=0, seconds=10.0) == (0.05, 190.0)
    read.count, read.share = 1000, 1.0
    progress.takes(100, passed=1.0)
    assert progress.now(written=900, seconds=100.0) == (1.0, 0.0)


@pytest.mark.parametrize("known", [Input(10, None), Input(0, 0.0)])
def test_of_an_input_of_unknown_size_no_end_is_told(known: Input) -> None:
    assert Progress(known, begun_with=0).now(written=10, seconds=1.0) == (None, None)


@pytest.mark.parametrize(("lines", "loads", "seconds"), [(24, 3, 102.0), (25, 5, 105.0), (80, 9, 111.0)])
def test_a_check_counts_the_loads_of_every_time_that_experts_are_asked(lines: int, loads: int, seconds: float) -> None:
    shares = [Share(name, lines, load, 32.0, False) for name, load in {"a": 3.0, "b": 1.0, "c": 2.0}.items()]
    facts = report(Seen(64, good=lines), {}, shares, TOGETHER)
    assert (facts["loads"], facts["seconds"], facts["windows"]) == (loads, seconds, TOGETHER.why)
