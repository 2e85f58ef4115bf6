from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from symmoe.batch.lines import BadLine, GoodLine
from symmoe.batch.output import Mark, RowWriter, open_output
from symmoe.errors import EngineError, JobError
from symmoe.pipeline import Watch
from symmoe.planning.costs import recall_observations
from symmoe.types import Candidate

from .conftest import Bench, CountingEngine, content, ids, questions, read_jsonl


def request(ident: str, asked: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": asked}]}
    return {"custom_id": ident, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_each_line_is_answered_in_its_place(bench: Bench) -> None:
    bench.write({"id": "b", "prompt": "spanish 5"}, {"id": "a", "prompt": "sums 2"}, {"id": "c", "prompt": "sums 1"})
    result = bench.run()
    assert [(row["symmoe_id"], row["answer"]) for row in bench.rows()] == [
        ("b", "speaker: spanish 5"),
        ("a", "adder: sums 2"),
        ("c", "adder: sums 1"),
    ]
    assert (result.answered, result.failed, result.resumed) == (3, 0, 0)


def test_an_answered_request_has_openais_batch_output_form(bench: Bench) -> None:
    bench.write(request("a", "sums 2"))
    bench.run()
    (row,) = bench.rows()
    body = row["response"]["body"]
    assert set(row) == {"id", "custom_id", "response", "error"}
    assert row["error"] is None
    assert row["response"]["status_code"] == 200
    assert body["object"] == "chat.completion"
    message = {"role": "assistant", "content": "adder: sums 2", "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert body["model"] == "symmoe/auto"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_lines_that_cannot_be_asked_stand_in_their_place_with_their_numbers(bench: Bench) -> None:
    rows = [
        request("one", "sums 1"),
        b"{",
        b"",
        request("two", "sums 2"),
        request("one", "sums 3"),
        request("void", " "),
        request("three", "sums 4"),
    ]
    bench.write(*rows)
    result = bench.run()
    written = [
        (
            row["custom_id"],
            (row["error"]["line"], row["error"]["code"]) if row["error"] else row["response"]["status_code"],
        )
        for row in bench.rows()
    ]
    assert written == [
        ("one", 200),
        (None, (2, "invalid_json_line")),
        ("two", 200),
        (None, (5, "duplicate_custom_id")),
        ("void", 400),
        ("three", 200),
    ]
    assert (result.answered, result.failed) == (3, 3)
    assert all((row["response"] is None) == (row["error"] is not None) for row in bench.rows())
    assert len({row["id"] for row in bench.rows()}) == 6


def test_a_prompt_longer_than_the_window_is_answered_with_an_error_as_online(bench: Bench) -> None:
    bench.write(request("short", "sums 1"), request("long", "sums " * 64), request("end", "sums 2"))
    bench.run()
    first, long, last = bench.rows()
    assert (long["custom_id"], long["error"], long["response"]["status_code"]) == ("long", None, 400)
    assert long["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert [content(first), content(last)] == ["adder: sums 1", "adder: sums 2"]


def test_each_answered_line_has_its_trace_in_order(bench: Bench) -> None:
    bench.write({"id": "a", "prompt": "sums 1"}, b"{", {"id": "b", "prompt": "nothing"})
    bench.run(k=4)
    first, second = bench.traces()
    assert [first["query_id"], second["query_id"]] == ["a", "b"]
    assert first["recruited"] == ["adder"]
    for trace in (first, second):
        assert [candidate["expert"] for candidate in trace["candidates"]] == trace["recruited"]
        assert all(c["text"].startswith(f"{c['expert']}: ") for c in trace["candidates"])


def test_an_empty_file_gives_an_empty_output_and_asks_nobody(bench: Bench) -> None:
    bench.write()
    result = bench.run()
    assert bench.output.read_bytes() == b""
    assert bench.traces() == []
    assert (result.answered, result.failed, bench.engine.started) == (0, 0, 0)


def test_a_file_of_bad_lines_only_starts_no_engine(bench: Bench) -> None:
    bench.write(b"{", b"[]")
    assert bench.run().failed == 2
    assert bench.engine.started == 0
    assert ids(bench.rows()) == [None, None]


@pytest.mark.parametrize(("count", "distinct"), [(1, 1), (1000, 40)])
def test_every_line_is_answered_once_in_order_and_a_repeated_prompt_is_generated_once(
    bench: Bench, count: int, distinct: int
) -> None:
    rows = questions(count, distinct)
    bench.write(*rows)
    bench.run()
    assert ids(bench.rows()) == [row["id"] for row in rows]
    assert all(content(given).endswith(f": {row['prompt']}") for given, row in zip(bench.rows(), rows, strict=True))
    assert len(bench.engine.asked) == len(set(bench.engine.asked))
    assert {asked.split(": ")[1] for asked in bench.engine.asked} == {row["prompt"] for row in rows}


def test_sampled_lines_with_equal_prompts_are_each_generated(bench: Bench) -> None:
    bench.write(*({"id": f"q{n}", "prompt": "sums 1", "temperature": 1.0} for n in range(5)))
    bench.run(k=2)
    assert bench.engine.asked == ["adder: sums 1"] * 5


def test_a_finished_job_that_is_resumed_does_nothing(bench: Bench) -> None:
    bench.write(*questions(20), b"{")
    first = bench.run()
    before = [path.stat() for path in (bench.output, bench.folder / "out.trace.jsonl")]
    asked = len(bench.engine.asked)
    again = bench.run(resume=True)
    assert (again.answered, again.failed, again.ran) == (first.answered, first.failed, False) == (20, 1, False)
    assert len(bench.engine.asked) == asked
    after = [path.stat() for path in (bench.output, bench.folder / "out.trace.jsonl")]
    assert [(s.st_ino, s.st_mtime_ns) for s in after] == [(s.st_ino, s.st_mtime_ns) for s in before]


@pytest.mark.parametrize("lost", ["out.jsonl", "out.trace.jsonl"])
def test_a_finished_job_whose_files_were_removed_writes_them_again(bench: Bench, lost: str) -> None:
    bench.write(*questions(8))
    bench.run()
    before = {name: (bench.folder / name).read_bytes() for name in ("out.jsonl", "out.trace.jsonl")}
    (bench.folder / lost).unlink()
    bench.engine = CountingEngine()
    bench.run(resume=True)
    assert {name: (bench.folder / name).read_bytes() for name in before} == before


def test_a_finished_job_leaves_no_candidates_and_only_its_record_in_the_store(bench: Bench) -> None:
    bench.write(*questions(8))
    bench.run()
    assert bench.kept == []
    assert [table for table in bench.store.tables if table.startswith("batch")] == [f"batch:{bench.job().name}:facts"]


def test_without_resume_a_job_starts_over(bench: Bench) -> None:
    bench.write(*questions(8))
    bench.run()
    asked = len(bench.engine.asked)
    result = bench.run()
    assert result.resumed == 0
    assert len(bench.engine.asked) == 2 * asked


def test_without_resume_candidates_of_an_unfinished_job_are_dropped(bench: Bench) -> None:
    bench.write(*questions(8))
    bench.engine.lasts = 3
    with pytest.raises(EngineError):
        bench.run()
    bench.engine.lasts = None
    bench.engine.asked.clear()
    assert bench.run().resumed == 0
    assert len({asked.split(": ")[1] for asked in bench.engine.asked}) == 8


def test_resume_without_anything_to_go_on_with_is_a_start(bench: Bench) -> None:
    bench.write(*questions(8))
    assert bench.run(resume=True).resumed == 0
    assert len(bench.rows()) == 8


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(({"k": 2}, "k was 3 and is 2"), id="k"),
        pytest.param(({"seed": 1}, "the seed was 0 and is 1"), id="seed"),
        pytest.param(({"routing": {"temperature": 0.7}}, "the pool or a file that it names has changed"), id="pool"),
        pytest.param(({"experts": ("adder", "speaker")}, "the pool .* has changed"), id="experts and their profiles"),
    ],
)
def test_resuming_with_something_changed_is_a_job_error_that_names_it_and_leaves_the_job_alone(
    bench: Bench, change: tuple[dict[str, Any], str], finished: bool
) -> None:
    bench.write(*questions(8))
    bench.engine.lasts = None if finished else 3
    if finished:
        bench.run()
    else:
        with pytest.raises(EngineError):
            bench.run()
    before = json.dumps(bench.store.tables)
    options, difference = change
    with pytest.raises(JobError, match=f"cannot resume: {difference}") as caught:
        bench.run(resume=True, **options)
    assert "without --resume" in (caught.value.hint or "")
    assert json.dumps(bench.store.tables) == before


def test_jobs_with_different_outputs_know_nothing_of_each_other(bench: Bench) -> None:
    bench.write(*questions(8))
    bench.engine.lasts = 3
    with pytest.raises(EngineError):
        bench.run()
    bench.engine.lasts = None
    assert bench.kept
    assert bench.run(output=bench.folder / "other.jsonl", resume=True).resumed == 0
    assert bench.kept


def test_candidates_that_are_kept_are_not_generated_again(bench: Bench) -> None:
    bench.write(*questions(40))
    bench.engine.lasts = 17
    with pytest.raises(EngineError):
        bench.run(k=1)
    bench.engine.lasts = None
    result = bench.run(resume=True, k=1)
    assert result.resumed == 17
    assert len(bench.engine.asked) == len(set(bench.engine.asked)) == 40


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 5), (3600.0, 1)])
def test_candidates_are_in_their_file_before_anyone_else_hears_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    monkeypatch.setattr("symmoe.batch.job.KEEP_SECONDS", seconds)
    bench.write(*questions(5))
    heard: list[int] = []

    def hear(given: Sequence[Candidate]) -> None:
        assert set(given) <= set(bench.kept)
        heard.append(len(given))

    bench.run(k=1, watch=Watch(candidates=hear))
    assert sum(heard) == 5
    assert len(heard) == times, "those that come within a moment are kept together"


@pytest.mark.parametrize("end", [b"", b'["torn', b'["whole", {}]\n', b"\xff\n"])
def test_a_damaged_end_of_the_candidates_costs_only_what_is_damaged(bench: Bench, end: bytes) -> None:
    bench.write(*questions(20))
    bench.engine.lasts = 9
    with pytest.raises(EngineError):
        bench.run(k=1)
    with (bench.job().files.folder / "candidates").open("ab") as file:
        file.write(end)
    bench.engine.lasts = None
    assert bench.run(resume=True, k=1).resumed == 9
    assert len(bench.engine.asked) == 20


@pytest.mark.parametrize("target", ["in.jsonl", "out.jsonl", "link.jsonl"])
def test_a_job_whose_output_or_trace_would_overwrite_its_input_is_refused(bench: Bench, target: str) -> None:
    source = bench.folder / ("out.trace.jsonl" if target == "out.jsonl" else "in.jsonl")
    source.write_bytes(b'{"id": "a", "prompt": "sums 1"}\n')
    (bench.folder / "link.jsonl").symlink_to(source)
    with pytest.raises(JobError, match="would overwrite the input"):
        bench.run(source=source, output=bench.folder / target)
    assert source.read_bytes() == b'{"id": "a", "prompt": "sums 1"}\n'


@pytest.mark.parametrize("target", [".", "in.jsonl/out.jsonl"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_generated(bench: Bench, target: str) -> None:
    bench.write(*questions(3))
    with pytest.raises(JobError, match="directory"):
        bench.run(output=bench.folder / target)
    assert bench.engine.asked == []


def test_an_output_that_is_a_device_is_refused(bench: Bench) -> None:
    bench.write(*questions(3))
    with pytest.raises(JobError, match="device"):
        bench.run(output=Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["out.tsv", "out.jsonl.gz"])
def test_an_output_whose_name_promises_another_format_is_refused(bench: Bench, name: str) -> None:
    bench.write(*questions(3))
    with pytest.raises(JobError, match="is not written as"):
        bench.run(output=bench.folder / name)


def test_the_folder_of_the_output_is_made(bench: Bench) -> None:
    bench.write(*questions(3))
    bench.run(output=bench.folder / "new" / "folder" / "out.jsonl")
    assert len(read_jsonl(bench.folder / "new" / "folder" / "out.jsonl")) == 3


def test_an_output_that_cannot_be_written_at_the_end_is_written_when_resumed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(*questions(10))

    def full(writer: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("symmoe.batch.output.TraceWriter.flush", full)
        with pytest.raises(JobError, match="No space left on device") as caught:
            bench.run()
    assert "--resume" in (caught.value.hint or "")
    asked = len(bench.engine.asked)
    bench.run(resume=True)
    assert len(bench.engine.asked) == asked
    assert ids(bench.rows()) == [f"q{number}" for number in range(10)]


def test_nothing_is_left_beside_the_output_and_its_trace(bench: Bench) -> None:
    bench.write(*questions(3))
    bench.run()
    names = {path.name for path in bench.folder.iterdir()}
    assert names == {"in.jsonl", "out.jsonl", "out.trace.jsonl", ".out.jsonl.job", "pool"}


def test_words_of_every_script_are_written_as_they_are(bench: Bench) -> None:
    bench.write({"id": "ñ☃", "prompt": "sums größer 数 \u2028 \x00"})
    bench.run()
    (row,) = bench.rows()
    assert row["symmoe_id"] == "ñ☃"
    assert content(row) == "adder: sums größer 数 \u2028 \x00"


def written(writer: RowWriter, *lines: GoodLine | BadLine) -> Mark:
    for line in lines:
        writer.write(line, [])
    return writer.flush()


def test_rows_are_appended_and_gone_on_with_at_a_known_row(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = [BadLine(number, f"q{number}", "broken", "is broken") for number in range(1, 6)]
    writer = open_output(path, "job", 0)
    mark = written(writer, *lines[:2])
    assert (mark.rows, mark.bytes, ids(read_jsonl(path))) == (2, path.stat().st_size, ["q1", "q2"])
    written(writer, *lines[2:4])
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])

    again = open_output(path, "job", 0, mark)
    assert path.stat().st_size == mark.bytes
    assert written(again, *lines[2:]).rows == 5
    again.close()
    assert path.read_bytes().startswith(whole)
    assert ids(read_jsonl(path)) == ["q1", "q2", "q3", "q4", "q5"]


def test_an_output_that_was_cut_short_is_not_gone_on_with(tmp_path: Path) -> None:
    writer = open_output(tmp_path / "out.jsonl", "job", 0)
    mark = written(writer, BadLine(1, "a", "broken", "is broken"))
    writer.close()
    (tmp_path / "out.jsonl").write_bytes(b"{}\n")
    with pytest.raises(JobError, match="shorter than it was"):
        open_output(tmp_path / "out.jsonl", "job", 0, mark)


def test_what_echoes_cost_is_not_taken_for_what_models_of_the_same_pool_cost(bench: Bench) -> None:
    bench.write(*questions(4))
    bench.run()
    echoes = bench.job().pool
    models = echoes.model_copy(update={"engine": echoes.engine.model_copy(update={"kind": "vllm"})})
    assert recall_observations(bench.store, echoes.costs_name)
    assert not recall_observations(bench.store, models.costs_name)
