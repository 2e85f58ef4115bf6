"""Jobs of several windows: rows appear while they run, and inputs, experts and disks that change meanwhile."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symmoe.batch.checking import verify
from symmoe.batch.record import Candidates, job_lock, read_status, write_status
from symmoe.batch.windows import LARGEST, MOST, choose_window
from symmoe.errors import EngineError, ErrorLimitError, InputError, JobError
from symmoe.pipeline import Watch
from symmoe.planning.costs import ExpertCost
from symmoe.rows.shapes import Reading
from symmoe.types import Call, Generation, Image

from .conftest import Bench, CountingEngine, Rows, content, essence, ids, questions, read_jsonl


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmoe.batch.windows.FIRST", 4)
    monkeypatch.setattr("symmoe.batch.windows.LEAST", 8)


class Broken(CountingEngine):
    """An engine for which some experts cannot be made ready, and some fail at each question."""

    def __init__(self, unloaded: Sequence[str] = (), mute: Sequence[str] = ()) -> None:
        super().__init__()
        self.unloaded, self.mute, self.tried = list(unloaded), list(mute), 0

    def start(self, model: str, tags: Any) -> None:
        if "every" in self.unloaded:
            raise EngineError("no engine starts")
        super().start(model, tags)

    def swap(self, image: Image) -> int:
        if Path(image.key).name in self.unloaded:
            self.tried += 1
            raise EngineError("its weights are broken")
        return super().swap(image)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            if call.expert in self.mute:
                raise EngineError("it says nothing")
            yield call, generation


def errors(bench: Bench) -> Rows:
    return read_jsonl(bench.folder / "out.errors.jsonl")


def test_rows_can_be_read_in_order_while_the_job_runs(bench: Bench) -> None:
    bench.write(*questions(40))
    seen: list[int] = []
    bench.run(watch=Watch(candidates=lambda given: seen.append(bench.output.read_bytes().count(b"\n"))))
    assert sorted(seen) == seen
    assert set(seen) == {0, 4, 12, 20, 28, 36}
    assert ids(bench.rows()) == [f"q{number}" for number in range(40)]


def test_a_window_begins_with_the_expert_that_the_one_before_ended_with(bench: Bench) -> None:
    bench.write(*questions(36))
    result = bench.run()
    changes = [load.expert for load in result.loads if load.lane != "resident"]
    there, back = ["speaker", "sorter"], ["speaker", "adder"]
    assert changes == ["adder", *there, *back, *there, *back, *there]


def test_words_that_come_again_in_a_later_window_are_not_asked_again(bench: Bench) -> None:
    bench.write(*questions(40, 10))
    bench.run()
    assert len(bench.engine.asked) == len(set(bench.engine.asked))
    assert len(bench.rows()) == 40


def appended(rows: Rows) -> Rows:
    return [*rows, {"id": "new", "prompt": "sums 99"}]


def edited(rows: Rows) -> Rows:
    return [*rows[:9], {"id": "q9", "prompt": "sums 99"}, *rows[10:]]


def sorted_anew(rows: Rows) -> Rows:
    return rows[::-1]


def shortened(rows: Rows) -> Rows:
    return rows[:20]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "fresh"), [(appended, 1), (edited, 1), (sorted_anew, 0), (shortened, 0), (lambda rows: rows, 0)]
)
def test_of_an_input_that_changed_only_what_changed_is_asked(
    bench: Bench, change: Callable[[Rows], Rows], fresh: int, finished: bool
) -> None:
    rows = questions(30)
    bench.write(*rows)
    if not finished:
        bench.engine.lasts = 21
        with pytest.raises(EngineError):
            bench.run(k=1)
        bench.engine.lasts = None
    bench.run(k=1, resume=True)
    asked = len(bench.engine.asked)
    bench.write(*change(rows))
    result = bench.run(k=1, resume=True)
    assert len(bench.engine.asked) - asked == fresh
    assert (result.answered, result.failed) == (len(change(rows)), 0)
    given, traces = bench.rows(), bench.traces()
    assert ids(given) == [row["id"] for row in change(rows)] == [trace["query_id"] for trace in traces]
    assert [content(row).partition(": ")[2] for row in given] == [row["prompt"] for row in change(rows)]
    assert verify([bench.source], bench.output).whole
    assert len({row["id"] for row in given}) == len(given)


@pytest.mark.parametrize("name", ["in.csv", "in.json"])
def test_an_edit_of_a_table_or_an_array_is_found_when_the_job_goes_on(bench: Bench, name: str) -> None:
    def write(rows: Rows) -> Path:
        table = "".join(f"{row['id']},{row['prompt']}\n" for row in [{"id": "id", "prompt": "prompt"}, *rows])
        (bench.folder / name).write_text(table if name == "in.csv" else json.dumps(rows))
        return bench.folder / name

    bench.run(k=1, source=write(questions(12)))
    for rows, fresh in ((edited(questions(12)), 1), (edited(questions(12))[::-1], 0)):
        asked = len(bench.engine.asked)
        bench.run(k=1, resume=True, source=write(rows))
        assert len(bench.engine.asked) - asked == fresh
        assert [content(row).partition(": ")[2] for row in bench.rows()] == [row["prompt"] for row in rows]
        assert verify([bench.folder / name], bench.output).whole


def test_rows_named_by_their_number_have_it_in_their_traces_too_where_lines_moved(bench: Bench) -> None:
    rows = [{"prompt": "sums 1"}, {"prompt": "sums 2", "n": 2}, {"turns": ["sums 3", '"query_id":"3"']}]
    for lines in (rows, [{"prompt": "spanish"}, *rows]):
        bench.write(*lines)
        bench.run(k=1, resume=True)
    asked = [trace["query_id"][0] for trace in bench.traces()]
    assert (ids(bench.rows()), asked) == (["1", "2", "3", "4"], ["1", "2", "3", "3", "4", "4"])
    assert [trace["candidates"][0]["query_id"][0] for trace in bench.traces()] == asked
    assert bench.traces()[-1]["answer"]["text"].endswith('"query_id":"3"')


def test_a_row_named_by_its_number_is_named_anew_where_blank_lines_came_or_went(bench: Bench) -> None:
    for lines in (["sums 1", "", "sums 2"], ["sums 1", "sums 2", "sums 3"], ["", "sums 1", "sums 2", "sums 3"]):
        (bench.folder / "in.txt").write_text("\n".join(lines))
        bench.run(k=1, resume=True, source=bench.folder / "in.txt")
        assert ids(bench.rows()) == [str(number) for number, line in enumerate(lines, 1) if line]
        assert verify([bench.folder / "in.txt"], bench.output).whole
        bench.write(*({"prompt": line} if line else b"" for line in lines))
        bench.run(k=1, resume=True, output=bench.folder / "of-json.jsonl")
        assert verify([bench.source], bench.folder / "of-json.jsonl").whole
    assert len(bench.engine.asked) == 6


def test_a_job_killed_between_an_old_input_and_a_new_one_asks_only_what_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(*questions(12))
    bench.run(k=1)
    bench.write(*edited(questions(12)))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("symmoe.batch.writing.open_output", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run(k=1, resume=True)
    assert bench.run(k=1, resume=True).kept == 11
    assert len(bench.engine.asked) == 13
    assert verify([bench.source], bench.output).whole


def test_a_table_made_of_a_file_that_breaks_off_is_gone_on_with(bench: Bench) -> None:
    source, output = bench.folder / "in.json", bench.folder / "out.csv"
    source.write_text(json.dumps(questions(9))[:-20])
    assert bench.run(source=source, output=output).causes["damaged_file"].count == 1
    assert not bench.run(source=source, output=output, resume=True).ran


def test_what_comes_through_a_pipe_is_read_once_and_kept(bench: Bench) -> None:
    pipe = bench.folder / "in.csv"
    os.mkfifo(pipe)
    for resume in (False, True):
        writer = Thread(target=pipe.write_text, args=("id,prompt\na,sums 1\nb,sums 2\n",))
        writer.start()
        assert bench.run(source=pipe, resume=resume).answered == 2
        writer.join()
    assert ids(bench.rows()) == ["a", "b"]
    assert len(bench.engine.asked) == 2


def test_a_job_fed_by_a_pipe_goes_on_with_what_came_where_nothing_comes_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fed, resume, answered in ((b'{"prompt": "sums 1"}', False, 1), (b"", True, 1), (b"", False, 0)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(fed)))
        assert bench.run(source=Path("-"), resume=resume).answered == answered == len(bench.rows())
    monkeypatch.setattr(sys, "stdin", None)
    assert not bench.run(source=Path("-"), resume=True).ran
    with pytest.raises(InputError, match="standard input is closed"):
        bench.run(source=Path("-"))


@pytest.mark.parametrize("source", ["", "*.jsonl", "**/*.jsonl"])
def test_an_output_that_would_be_read_as_an_input_is_refused(bench: Bench, source: str) -> None:
    bench.write({"prompt": "sums 1"})
    with pytest.raises(JobError, match="would be read as an input"):
        bench.run(source=bench.folder / source)
    assert not bench.output.exists()
    assert bench.run(source=bench.folder / source, output=bench.folder.parent / "elsewhere.jsonl").answered == 1


def test_jobs_whose_outputs_differ_in_their_ending_keep_their_evidence_apart(bench: Bench) -> None:
    bench.write({"id": "a", "prompt": "sums 1"}, b"{")
    bench.run()
    evidence = (bench.folder / "out.trace.jsonl").read_bytes(), (bench.folder / "out.errors.jsonl").read_bytes()
    bench.run(output=bench.folder / "out.csv")
    assert (bench.folder / "out.csv.trace.jsonl").exists()
    assert evidence == (
        (bench.folder / "out.trace.jsonl").read_bytes(),
        (bench.folder / "out.errors.jsonl").read_bytes(),
    )


def test_a_job_is_scored_afterwards_without_asking_again(bench: Bench) -> None:
    bench.write({"prompt": "sums 1", "options": {"depth": 3}, "key": "1"})
    assert bench.run().answered == 1
    assert not bench.run(resume=True, reading=Reading(score=True)).ran
    assert not bench.run(resume=True, reading=Reading(score=True, reference="key")).ran
    assert bench.run(reading=Reading(score=True)).answered == 1


def test_the_status_of_a_job_that_was_killed_is_not_that_it_runs(bench: Bench) -> None:
    bench.write({"prompt": "sums 1"})
    files = bench.job().files
    bench.run()
    with job_lock(files):
        write_status(files, {"state": "running"})
        assert read_status(files)["state"] == "running"
    assert read_status(files)["state"] == "stopped"


every_fault = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@every_fault
@given(st.lists(st.tuples(st.permutations(range(12)), st.integers(0, 20), st.integers(0, 12)), min_size=1, max_size=4))
def test_a_job_interrupted_while_its_input_changes_again_and_again_answers_the_last_one(
    benches: Callable[[], Bench], steps: list[tuple[list[int], int, int]]
) -> None:
    bench, rows = benches(), questions(12)
    for order, lasts, count in steps:
        bench.write(*(rows[place] for place in order[:count]))
        bench.engine.lasts = len(bench.engine.asked) + lasts
        try:
            bench.run(resume=True)
        except EngineError:
            continue
    bench.engine.lasts = None
    bench.run(resume=True)
    undisturbed = benches()
    undisturbed.source.write_bytes(bench.source.read_bytes())
    undisturbed.run()
    words = [(row[0], row[1], row[2] and row[2][0]) for row in essence(bench.rows())]
    assert words == [(row[0], row[1], row[2] and row[2][0]) for row in essence(undisturbed.rows())]
    assert verify([bench.source], bench.output).whole


def test_the_questions_of_an_expert_that_cannot_be_made_ready_go_to_the_next_best(bench: Bench) -> None:
    bench.engine = Broken(unloaded=["speaker"])
    bench.write(*questions(40))
    result = bench.run(stop=False, k=1)
    assert (result.answered, result.failed) == (40, 0)
    assert bench.engine.tried == 3, "it is asked no more"
    assert "its weights are broken" in result.lost["speaker"]
    told = [trace for trace in bench.traces() if trace["failed"]]
    assert told
    assert all("its weights are broken" in trace["failed"]["speaker"] for trace in told)
    assert all("speaker" not in content(row) for row in bench.rows())


def test_an_expert_that_fails_at_its_questions_is_given_up_in_the_end(bench: Bench) -> None:
    bench.engine = Broken(mute=["speaker"])
    bench.write(*questions(60))
    result = bench.run(stop=False)
    assert (result.answered, result.failed, list(result.lost)) == (60, 0, ["speaker"])


def test_with_stop_the_first_expert_that_fails_ends_the_job_which_can_be_resumed(bench: Bench) -> None:
    bench.engine = Broken(unloaded=["speaker"])
    bench.write(*questions(40))
    with pytest.raises(EngineError, match="expert 'speaker' failed 3 times: its weights are broken"):
        bench.run()
    bench.engine.unloaded.clear()
    assert bench.run(resume=True).answered == 40


def test_an_engine_that_dies_at_every_load_ends_the_job_without_an_error_row(bench: Bench) -> None:
    bench.engine = Broken(unloaded=["every"])
    bench.write(*questions(10))
    with pytest.raises(EngineError, match="no expert is left"):
        bench.run(stop=False)
    assert bench.rows() == []
    bench.engine.unloaded.clear()
    assert bench.run(resume=True, stop=False).answered == 10


def test_failed_lines_stand_beside_the_output_as_they_came_and_are_counted_by_cause(bench: Bench) -> None:
    bench.engine = Broken(unloaded=["speaker"])
    asked = {"id": "named", "prompt": "sums 1", "model": "speaker"}
    bench.write({"id": "a", "prompt": "sums 1"}, b"{", asked, {"id": "a", "prompt": "sums 1"})
    result = bench.run(stop=False)
    assert (result.answered, result.failed) == (1, 3)
    torn, named, twice = errors(bench)
    assert (torn["row"], torn["line"], torn["code"], torn["attempts"]) == ("{", 2, "invalid_json_line", 0)
    assert (named["row"], named["line"], named["code"], named["attempts"]) == (asked, 3, "expert_unavailable", 1)
    assert "its weights are broken" in named["experts"]["speaker"]
    assert (twice["code"], twice["line"]) == ("duplicate_custom_id", 4)
    assert {code: (cause.count, cause.line) for code, cause in result.causes.items()} == {
        "invalid_json_line": (1, 2),
        "expert_unavailable": (1, 3),
        "duplicate_custom_id": (1, 4),
    }


def test_failed_lines_are_run_again_in_their_places_and_no_others(bench: Bench) -> None:
    bench.engine = Broken(unloaded=["speaker"])
    rows = [{"id": f"q{n}", "prompt": f"sums {n}", **({"model": "speaker"} if n % 3 == 0 else {})} for n in range(20)]
    bench.write(*rows)
    assert bench.run(stop=False).failed == 7
    assert not bench.run(stop=False, resume=True).ran
    bench.engine = CountingEngine()
    result = bench.run(stop=False, resume=True, again=True)
    assert (result.answered, result.failed, result.kept, len(bench.engine.asked)) == (20, 0, 13, 7)
    assert ids(bench.rows()) == [row["id"] for row in rows]
    assert not (bench.folder / "out.errors.jsonl").exists()
    assert verify([bench.source], bench.output).whole


def test_a_job_of_whose_lines_too_many_fail_ends_and_says_so(bench: Bench) -> None:
    bench.write(*questions(6), b"{", b"{")
    with pytest.raises(ErrorLimitError, match="2 of 8 lines failed, more than 20 %") as caught:
        bench.run(max_error_rate=0.2)
    assert (caught.value.exit_code, "batch retry" in (caught.value.hint or "")) == (4, True)
    assert bench.run(resume=True, max_error_rate=0.3).failed == 2


@pytest.mark.parametrize("write", range(0, 30, 3))
def test_a_job_whose_disk_fills_goes_on_where_it_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    bench.write(*questions(30))
    keep, writes = Candidates.add, 0

    def full(kept: Candidates, *rest: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > write:
            raise OSError(28, "No space left on device")
        keep(kept, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Candidates, "add", full)
        patch.setattr("symmoe.batch.job.KEEP_SECONDS", 0.0)
        with pytest.raises(JobError, match="No space left on device"):
            bench.run(k=1)
    asked = len(bench.engine.asked)
    bench.run(k=1, resume=True)
    assert len(bench.engine.asked) - asked == 30 - write
    assert verify([bench.source], bench.output).whole


def test_an_output_made_read_only_while_the_job_runs_is_gone_on_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(*questions(30))
    flushes: list[int] = []

    def refuse(writer: Any) -> Any:
        flushes.append(1)
        if len(flushes) > 2:
            raise OSError(30, "Read-only file system", str(bench.output))
        return flush(writer)

    from symmoe.batch.output import JsonlWriter

    flush = JsonlWriter.flush
    with monkeypatch.context() as patch:
        patch.setattr(JsonlWriter, "flush", refuse)
        with pytest.raises(JobError, match=r"out.jsonl: cannot be written \(Read-only file system\)"):
            bench.run()
    bench.run(resume=True)
    assert len(bench.engine.asked) == len(set(bench.engine.asked))
    assert verify([bench.source], bench.output).whole


def test_an_input_that_changes_while_it_is_read_is_told_and_made_good(bench: Bench) -> None:
    rows = questions(60)
    bench.write(*rows)

    def change(given: object) -> None:
        bench.write(*edited(rows))

    with pytest.raises(JobError, match="changed while it was read"):
        bench.run(watch=Watch(candidates=change))
    bench.run(resume=True)
    assert verify([bench.source], bench.output).whole
    assert content(bench.rows()[9]) == "adder: sums 99"


@pytest.mark.parametrize(
    ("cost", "loads", "lines"),
    [
        (ExpertCost(8.0, 0.1, swap=0.3), True, MOST),
        (ExpertCost(90.0, 1.0, swap=30.0), True, 13_230),
        (ExpertCost(90.0, 0.02, swap=60.0), True, LARGEST),
        (ExpertCost(8.0, 1.0, swap=0.3), True, 1350),
        (ExpertCost(8.0, 9.0, swap=0.3), True, 150),
        (ExpertCost(8.0, 900.0, swap=0.3), True, 8),
        (ExpertCost(8.0, 0.1, swap=0.3), False, 8),
    ],
)
def test_a_window_is_as_large_as_loading_is_dear(cost: ExpertCost, loads: bool, lines: int) -> None:
    window = choose_window({f"e{n}": cost for n in range(10)}, loads)
    assert window.lines == lines
    assert str(lines) in window.why


def test_what_is_missing_twice_strange_or_moved_is_named(bench: Bench) -> None:
    bench.write(*questions(10))
    bench.run()
    rows = bench.output.read_bytes().splitlines(keepends=True)
    strange = json.dumps({**json.loads(rows[0]), "symmoe_id": "nobody"}).encode() + b"\n"
    bench.output.write_bytes(b"".join([*rows[:3], rows[4], rows[3], rows[5], rows[5], strange, *rows[7:]]))
    found = verify([bench.source], bench.output)
    assert not found.whole
    assert (found.lines, found.rows, found.answered) == (10, 11, 11)
    assert (found.missing, found.twice, found.strange, found.moved) == (1, 1, 1, 1)
    assert found.examples == {"missing": [7], "twice": [7], "strange": [8], "moved": [5]}
