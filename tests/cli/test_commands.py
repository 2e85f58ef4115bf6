"""What holds for every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import symmoe.cli.pool

from .conftest import Symmoe, whole_command

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
HEAVY = {"torch", "vllm", "transformers", "ray", "sentence_transformers"}
REPORT = (
    "import json, sys; sys.argv[0] = 'symmoe'\n"
    "from symmoe.cli.main import main\n"
    "try: main()\n"
    "finally: sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
)

RECORDED = json.dumps([{"question": f"{n} + 1?", "scores": {"a": 1, "b": n % 2}} for n in range(4)])
JSON_RUNS = {
    "demo": "demo --pool {pool} --per-family 1 --out {folder}/demo",
    "ask": "ask sums --pool {pool}",
    "route": "route sums --pool {pool}",
    "doctor": "doctor",
    "aggregator bench": "aggregator bench --pool {pool} --per-family 1 -o {folder}/skilled.json",
    "bench replay": "bench replay --train {folder}/sets --test {folder}/sets --pool {pool} -o {folder}/replay.json",
    "bench plan": "bench plan --quick --seeds 1 -o {folder}/plan.json",
    "bench routing": "bench routing --quick -o {folder}/routing.json",
    "bench recruiting": "bench recruiting --pool {pool} --per-family 1 -o {folder}/recruiting.json",
    "bench quality": "bench quality --pool {pool} --per-family 1 -o {folder}/quality.json",
    "bench swap": "bench swap --pool {pool} -o {folder}/swap.json",
    "bench batch": "bench batch --pool {pool} -o {folder}/batch.json",
    "bench replicas": "bench replicas --pool {pool}",
    "bench lines": "bench lines --pool {folder}/none.yaml -o {folder}/lines.json",
    "bench gather": "bench gather --megabytes 2 --ranks 2 --repeats 1 -o {folder}/gather.json",
    "bench scoring": "bench scoring --pool {pool} --per-family 1 --draws 1 -o {folder}/scorer.json",
    "bench siege": "bench siege --pool {folder}/none.yaml -o {folder}/siege.json",
    "bench tracing": "bench tracing --pool {folder}/none.yaml -o {folder}/tracing.json",
    "bench serve": "bench serve --part grouping --pool {pool} --requests 6 --clients 3 -o {folder}/serve.json",
    "reward train": "reward train --pool {pool} --per-family 1 -o {folder}/scorer",
    "reward show": "reward show",
    "batch retry": "batch retry {folder}/none.jsonl",
    "batch status": "batch status {folder}/none.jsonl",
    "batch verify": "batch verify {source} {folder}/none.jsonl",
    "batch run": "batch run {source} -o {folder}/out.jsonl --pool {pool}",
    "batch check": "batch check {source} --pool {pool}",
    "plan show": "plan show --pool {pool} --input {source} --workers 2",
    "pool list": "pool list",
    "pool show": "pool show {pool}",
    "pool check": "pool check {pool}",
    "pool init": "pool init {folder}/new.yaml",
    "pool pack": "pool pack --pool {pool} --out {folder}/packs",
    "expert eval": "expert eval adder --pool {pool} --per-family 1",
    "expert add": "expert add poet --model org/base --pool {pool} -o {folder}/grown.yaml",
    "expert list": "expert list --service {nowhere}",
    "expert drain": "expert drain adder --service {nowhere}",
    "expert quarantine": "expert quarantine adder --service {nowhere}",
    "expert restore": "expert restore adder --service {nowhere}",
    "expert remove": "expert remove adder --service {nowhere}",
    "expert train": "expert train {folder}/no-recipe.yaml",
    "profile build": "profile build --pool {pool} --per-family 1 -o {folder}/profiles.json",
    "profile push": "profile push {records} --name mine",
    "profile pull": "profile pull nothing-there -o {folder}/pulled.json",
    "profile show": "profile show --pool {pool}",
    "profile diff": "profile diff {records} {records}",
    "profile merge": "profile merge {records} -o {folder}/merged.json",
    "replay": "replay {folder}/none",
    "records check": "records check {folder}/none",
    "records import": "records import {source} {folder}/none -o {folder}/records",
    "records import-mmlu-pro": "records import-mmlu-pro --data {folder}/none -o {folder}/records",
    "records split": "records split {folder}/none --first {folder}/a --rest {folder}/b",
    "top": "top --url {nowhere}",
    "usage": "usage",
    "serve": "serve --pool {pool} --host 0.0.0.0",
    "skill learn": "skill learn --pool {pool} --per-family 2 -o {folder}/learned.yaml",
    "skill show": "skill show --pool {pool}",
    "key create": "key create team --requests-per-minute 60 --tokens-per-minute 9000 --expires 30",
    "key list": "key list",
    "key revoke": "key revoke key-000000000000",
    "key rotate": "key rotate key-000000000000",
    "k8s diff": "k8s diff --out {folder}",
    "k8s fetch": "k8s fetch --pool {pool}",
    "k8s render": "k8s render --pool tiny",
    "k8s sizes": "k8s sizes --pool small-2026",
    "store status": "store status",
    "store stop": "store stop",
}
FAILING = {
    "batch retry",
    "batch status",
    "batch verify",
    "bench siege",
    "bench tracing",
    "bench batch",
    "bench lines",
    "bench replicas",
    "bench swap",
    "expert drain",
    "expert list",
    "expert quarantine",
    "expert remove",
    "expert restore",
    "expert train",
    "k8s diff",
    "k8s fetch",
    "key revoke",
    "key rotate",
    "pool pack",
    "profile pull",
    "records check",
    "records import",
    "records import-mmlu-pro",
    "records split",
    "replay",
    "reward train",
    "serve",
    "top",
}
"""Called with what is not there, because the real thing takes minutes or another command first."""


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it; former names, which are hidden, are left out."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        elif not command.hidden:
            yield f"{path}{name}", command


COMMANDS = dict(commands(whole_command()))


def test_help_lists_every_command(symmoe_command: Symmoe) -> None:
    said = symmoe_command("--help")
    assert said.code == 0
    for name in {name.split()[0] for name in COMMANDS}:
        assert f" {name} " in said.out


@pytest.mark.parametrize("group", sorted({name.split()[0] for name in COMMANDS if " " in name}))
def test_the_help_of_a_group_lists_its_commands(symmoe_command: Symmoe, group: str) -> None:
    said = symmoe_command(group, "--help")
    assert said.code == 0
    for name in COMMANDS:
        if name.startswith(f"{group} "):
            assert f" {name.split()[1]} " in said.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_names_its_options(symmoe_command: Symmoe, name: str) -> None:
    said = symmoe_command(*name.split(), "--help")
    assert said.code == 0
    assert "--json" in said.out


def test_no_number_that_an_option_takes_is_without_bounds() -> None:
    """NaN is within none, and nothing without end is within both."""

    def numbers(command: Any, path: str) -> Iterator[tuple[str, bool]]:
        for name, below in getattr(command, "commands", {}).items():
            yield from numbers(below, f"{path} {name}")
        for each in command.params:
            if "float" in str(each.type_descriptor.annotation):
                yield f"{path} {each.opts[0]}", each.min is not None and each.max is not None

    found = dict(numbers(whole_command(), "symmoe"))
    assert len(found) > 20
    assert [name for name, bounded in found.items() if not bounded] == []


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
@pytest.mark.parametrize(
    "words", ["ask hi --budget", "batch run q.txt -o a --max-error-rate", "batch run q.txt -o a --quality"]
)
def test_a_number_that_bounds_nothing_is_refused_by_its_option(symmoe_command: Symmoe, words: str, number: str) -> None:
    said = symmoe_command(*words.split(), number)
    assert said.code == 2
    assert words.split()[-1] in said.err


def test_the_json_of_every_command_is_tried_here() -> None:
    assert set(JSON_RUNS) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(JSON_RUNS))
def test_json_is_one_document_on_stdout_and_nothing_else(
    symmoe_command: Symmoe, name: str, pool: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "sums.json").write_text(RECORDED)
    records = pool.with_name("profiles.json")
    nowhere = "http://127.0.0.1:9"
    words = JSON_RUNS[name].format(pool=pool, records=records, source=source, folder=tmp_path, nowhere=nowhere).split()
    said = symmoe_command(*words, "--json")
    assert isinstance(said.json, dict | list)
    assert ("error" in said.json) == (name in FAILING)
    assert said.errors == []
    unwell = name == "doctor" and not said.json["ok"]
    assert said.code == (2 if name in FAILING else int(unwell))


@pytest.mark.parametrize(
    "words",
    [
        "pool check none.yaml",
        "batch run none.jsonl -o out.jsonl",
        "bench gather --ranks 1",
        "expert eval nobody",
        "ask",
        "ask --k 0 why",
        "ask --budget 0 why",
        "route",
        "route --k 0 why",
        "route --pool none.yaml why",
        "profile build",
        "profile build -o out.json --per-family 0",
        "profile diff one.json",
        "profile diff none.json none.json",
        "profile merge none.json",
        "profile merge none.json -o out.json",
        "profile merge -o out.json",
        "profile show --expert nobody",
        "batch run",
        "no-such-command",
        "pool list --no-such-option",
    ],
)
def test_bad_input_ends_with_exit_code_2_and_no_traceback(symmoe_command: Symmoe, words: str) -> None:
    said = symmoe_command(*words.split())
    assert said.code == 2
    assert said.out == ""
    assert said.err.strip()
    assert len(said.errors) <= 1


def test_an_error_is_one_json_document_where_json_is_asked_for(symmoe_command: Symmoe) -> None:
    said = symmoe_command("pool", "check", "none.yaml", "--json")
    assert said.code == 2
    assert said.json["error"]["type"] == "PoolError"
    assert "none.yaml" in said.json["error"]["message"]
    assert "pool init" in said.json["error"]["hint"]


def test_a_file_that_cannot_be_written_is_one_line_of_error(symmoe_command: Symmoe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = symmoe_command("pool", "init", tmp_path / "file" / "pool.yaml")
    assert said.code == 1
    assert said.errors == [f"error: {tmp_path / 'file'}: File exists"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_interrupted_or_terminated_stops_what_it_started(
    symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    stopped = []

    def interrupted(name: str) -> None:
        try:
            os.kill(os.getpid(), number)
            threading.Event().wait(60)
        finally:
            stopped.append(name)

    monkeypatch.setattr("symmoe.config.read_pool", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background of a shell
    try:
        said = symmoe_command("pool", "list")
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert (said.code, said.out, said.errors) == (code, "", [])
    assert stopped
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("symmoe.config.read_pool", fault)
    monkeypatch.setattr(sys, "argv", ["symmoe", "pool", "list"])
    with pytest.raises(ZeroDivisionError):
        symmoe.cli.main.main()


@pytest.mark.parametrize(
    "words", ["--help", "pool list", "pool show", "pool check symbolic-moe-16", "batch run --help"]
)
def test_what_needs_no_model_imports_no_heavy_library(words: str) -> None:
    process = subprocess.run([sys.executable, "-c", REPORT, *words.split()], capture_output=True, text=True, check=True)
    modules = set(json.loads(process.stderr.splitlines()[-1]))
    assert "symmoe.cli.main" in modules
    assert not HEAVY & modules
