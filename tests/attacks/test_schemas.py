"""A schema that ends, blocks or fills whatever compiles it ends, blocks and fills nothing that others need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from symmoe.engines import grammar_child
from symmoe.engines.grammars import Grammars, Verdict
from symmoe.errors import CapacityError
from symmoe.limits import SCHEMA_WALL_SECONDS, SCHEMAS_WAITING_OF_KEY
from tests.attacks.schemas import BLOCKER, BROKEN_COMPILER, KILLER, ODD, Schema, pattern

LONG = 2 * SCHEMA_WALL_SECONDS
"""For a verdict on a machine that does other things too."""


def model_in(folder: Path) -> str:
    """A checkpoint's tokenizer of 256 bytes and an end, and no more of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate([*alphabet, "<end>"])}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>").save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(alphabet) + 1}))
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_in(tmp_path_factory.mktemp("bytes"))


CPU_SECONDS = 1
QUICK = (
    *(sys.executable, "-c"),
    f"from symmoe import limits; limits.SCHEMA_CPU_SECONDS = {CPU_SECONDS}; "
    "from symmoe.engines.grammar_child import main; main()",
)
"""Compiles as it does by default, but gives up after a quarter of the time."""


@pytest.fixture(scope="module")
def grammars(model: str) -> Iterator[Grammars]:
    made = Grammars(QUICK)
    made.verdict('{"type": "object"}', model, "first").result(120)  # starts the process
    yield made
    made.close()


def verdict(grammars: Grammars, schema: Schema, model: str, key: str = "mine") -> Verdict:
    return grammars.verdict(json.dumps(schema, sort_keys=True), model, key).result(LONG)


@pytest.mark.parametrize("schema", [KILLER, BLOCKER, BROKEN_COMPILER], ids=["killer", "blocker", "broken compiler"])
def test_a_schema_that_no_engine_can_bear_is_told_within_the_bound(
    schema: Schema, grammars: Grammars, model: str
) -> None:
    before = grammars.pid
    assert verdict(grammars, schema, model).fault is not None
    assert grammars.pid == before


def test_an_ordinary_schema_passes_while_hostile_ones_are_compiled(grammars: Grammars, model: str) -> None:
    hostile = [
        grammars.verdict(json.dumps(pattern(f"[\\u0001-\\ufff0]{{1,{20_000 + n}}}")), model, "hostile")
        for n in range(SCHEMAS_WAITING_OF_KEY)
    ]
    assert verdict(grammars, pattern("^[0-9]{3}$"), model).fault is None
    assert not all(each.done() for each in hostile)
    for each in hostile:
        each.cancel()


def test_a_client_that_leaves_takes_its_work_away(grammars: Grammars, model: str) -> None:
    wait_until_childless(grammars.pid)
    before = children_s_seconds(grammars)
    hostile = grammars.verdict(json.dumps(pattern("[\\u0001-\\uffff]{1,30000}")), model, "hostile")
    assert hostile.cancel()
    assert verdict(grammars, pattern("^[0-9]{4}$"), model).fault is None
    wait_until_childless(grammars.pid)
    assert children_s_seconds(grammars) - before < CPU_SECONDS


def test_one_key_cannot_have_more_than_its_share_wait(grammars: Grammars, model: str) -> None:
    several = [json.dumps(pattern(f"[\\u0001-\\uff00]{{1,{30_000 + n}}}")) for n in range(SCHEMAS_WAITING_OF_KEY + 3)]
    asked = [grammars.verdict(schema, model, "greedy") for schema in several[:-1]]
    with pytest.raises(CapacityError, match="too many schemas"):
        grammars.verdict(several[-1], model, "greedy")
    grammars.verdict(json.dumps(pattern("^[a-c]$")), model, "other").result(LONG)
    for each in asked:
        each.cancel()


def test_the_same_schema_at_once_is_compiled_once_and_remembered(grammars: Grammars, model: str) -> None:
    schema = json.dumps(pattern("^[x-z]{2}$"))
    wait([grammars.verdict(schema, model, str(n)) for n in range(50)], LONG)
    assert grammars.verdict(schema, model, "later").done()


def test_a_compiler_that_is_killed_is_started_again(grammars: Grammars, model: str) -> None:
    first = grammars.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert verdict_at_last(grammars, {"type": "array"}, model).fault is None
    assert grammars.pid != first


def test_nothing_is_started_before_the_first_schema() -> None:
    grammars = Grammars()
    assert grammars.pid is None
    grammars.close()


def test_a_compiler_that_cannot_be_started_is_no_fault_of_the_schema(model: str) -> None:
    grammars = Grammars(["/no/such/program"])
    found = grammars.verdict("{}", model, "k").result(LONG)
    assert found == Verdict("the compiler of schemas does not start", sure=False)
    grammars.close()


def test_the_compiler_ends_with_whoever_started_it(model: str) -> None:
    code = (
        "import os, sys; from symmoe.engines.grammars import Grammars\n"
        f"g = Grammars(); g.verdict('{{}}', {model!r}, 'k').result(120)\n"
        f"g.verdict({json.dumps(KILLER)!r}, {model!r}, 'k')\n"
        "print(g.pid, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_takes_too_much_memory_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object) -> str | None:
        try:
            return str(len(bytearray(64 << 30)))
        except MemoryError:
            return grammar_child.TOO_LARGE

    told: list[dict[str, object]] = []
    monkeypatch.setattr(grammar_child, "fault_of", greedy)
    trials = grammar_child.Trials(told.append)
    trials.begin({"id": 1, "model": model, "vocabulary": 257, "schema": "{}"})
    while not told:
        assert trials.wait(LONG)
    assert told[0]["fault"] == grammar_child.TOO_LARGE


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_every_odd_schema_is_passed_or_refused_and_the_compiler_lives(
    name: str, grammars: Grammars, model: str
) -> None:
    before = grammars.pid
    verdict(grammars, ODD[name], model, name)
    assert grammars.pid == before


def verdict_at_last(grammars: Grammars, schema: Schema, model: str) -> Verdict:
    """A sure one: a process that has just ended tells of nothing."""
    while not (found := grammars.verdict(json.dumps(schema), model, "k").result(120)).sure:
        pass
    return found


def children_s_seconds(grammars: Grammars) -> float:
    """Seconds of a core that forks took which are over."""
    return float(psutil.Process(grammars.pid).cpu_times().children_user)


def wait_until_childless(pid: int | None) -> None:
    deadline = time.monotonic() + LONG
    while Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
