"""What `symmoe batch` tells of jobs that failed in part, or were stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from symmoe.engines.echo import EchoEngine

from .conftest import Symmoe


@pytest.mark.parametrize(
    ("name", "advice"),
    [("out.jsonl", "symmoe batch retry"), ("out.csv", "mend the rows and run again without --resume")],
)
def test_only_lines_of_json_are_to_be_tried_again(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, name: str, advice: str
) -> None:
    source.write_bytes(source.read_bytes() + b'{"prompt": ""}\n')
    said = symmoe_command("batch", "run", source, "-o", tmp_path / name, "--pool", pool)
    assert said.code == 3
    assert f"to ask them again: {advice}" in " ".join(said.out.split())
    assert ("batch retry" in said.out) == (name == "out.jsonl")


@pytest.mark.parametrize(("value", "code"), [("", "invalid_value"), (5, "invalid_prompt"), ([], "invalid_value")])
def test_what_cannot_be_asked_has_the_code_that_the_handbook_names(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, value: Any, code: str
) -> None:
    source.write_bytes(source.read_bytes() + json.dumps({"prompt": value}).encode())
    said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool, "--json")
    assert list(said.json["causes"]) == [code]


def test_a_stopped_job_is_told_as_json_and_nobody_is_at_work_any_more(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EchoEngine, "generate", interrupted)
        said = symmoe_command("batch", "run", source, "-o", output, "--pool", pool, "--json")
    assert said.code == 130
    facts = {key: said.json[key] for key in ("output", "state", "reason", "done", "failed")}
    assert facts == {"output": str(output), "state": "stopped", "reason": "stopped", "done": 0, "failed": 0}
    assert said.json["continue"].startswith("symmoe batch run ")
    assert said.json["continue"] in said.err
    status = symmoe_command("batch", "status", output)
    assert status.out.startswith("stopped: 0 done")
    assert json.loads(symmoe_command("batch", "status", output, "--json").out)["expert"]
    assert "at work" not in status.out
    assert symmoe_command("batch", "run", source, "-o", output, "--pool", pool, "--resume").code == 0
    assert "at work" not in symmoe_command("batch", "status", output).out


def test_a_job_stopped_before_it_began_has_no_counts(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("symmoe.batch.job.run_batch", interrupted)
    said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool, "--json")
    assert (said.code, said.json["state"], said.json["done"], said.json["failed"]) == (130, "stopped", None, None)
