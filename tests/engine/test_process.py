from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from symmoe.bench.unlike import random_model, sleeping_engines
from symmoe.build import Assembly
from symmoe.config import ExpertConfig, read_pool
from symmoe.engines.process import EngineProcess, EngineProcesses
from symmoe.errors import CapacityError, EngineError, EngineLostError
from symmoe.types import Assignment, Call, Candidate, Delta, Generation, Image, Load, Plan, Prompt, Step
from tests.engine.hosted import MAKER, PREPARE
from tests.fakes import query


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosted engine is found from wherever its process runs: not from this directory, where a user's files lie."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[EngineProcesses]:
    found = EngineProcesses(MAKER, 50, PREPARE, stall=60, log=tmp_path / "state" / "engine.log")
    yield found
    found.close()


@pytest.fixture
def engine(processes: EngineProcesses) -> Iterator[EngineProcess]:
    found = processes.engine()
    found.start("models/one", {"tensor": "tag"})
    yield found
    found.close()


def call(text: str, ident: str = "1") -> Call:
    return Call("one", query(text, ident), (Assignment(ident, "one", 0),))


def gone(pid: int) -> bool:
    """Whether a process ends, sooner or later."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 120)[0])
    finally:
        os.close(watched)


def test_every_method_is_answered_by_the_engine_in_its_process(engine: EngineProcess) -> None:
    assert (engine.model, engine.started) == ("models/one", 1)
    assert engine.pid not in (None, os.getpid())
    assert list(engine.generate([call("a b"), call("c", "2")])) == [
        (call("c", "2"), Generation("one: c", "stop", 1, 2)),
        (call("a b"), Generation("one: a b", "stop", 2, 3)),
    ]
    refused, taken = engine.refuse([query("word " * 60), query("short")])
    assert refused is not None
    assert (refused.code, taken) == ("context_length_exceeded", None)
    assert engine.adapt(None) is False
    assert engine.rebind("key", "models/two") is False
    engine.expect([("key", "models/two")])
    assert engine.swap(Image("key/two", "models/two", "path", 0, 3)) == len("two")
    assert engine.model == "models/two"
    assert engine.suspend() == len("two")
    engine.resume()
    assert engine.add("x", query("hi"), True, Prompt("models/two", (1, 2))) is None
    assert engine.step() == [Delta("x", "two:", None)]
    assert engine.step() == [Delta("x", " hi", Generation("two: hi", "stop", 1, 2))]
    engine.abort(["x"])


def test_what_the_engine_raises_is_raised_here_and_it_lives_on(engine: EngineProcess) -> None:
    with pytest.raises(CapacityError, match="it is full") as raised:
        list(engine.generate([call("fail")]))
    assert raised.value.hint == "make room"
    assert [generation.text for _, generation in engine.generate([call("again")])] == ["one: again"]


def test_an_engine_that_dies_while_it_generates_is_lost_and_can_be_started_again(engine: EngineProcess) -> None:
    with pytest.raises(EngineLostError, match="has ended"):
        list(engine.generate([call("die")]))
    assert engine.model is None
    with pytest.raises(EngineLostError):
        engine.resume()
    engine.start("models/one", {})
    assert [generation.text for _, generation in engine.generate([call("again")])] == ["one: again"]


def test_an_engine_killed_in_its_sleep_is_lost_when_it_is_to_wake(engine: EngineProcess) -> None:
    engine.suspend()
    os.kill(engine.pid or 0, signal.SIGKILL)
    with pytest.raises(EngineLostError):
        engine.resume()


def test_an_engine_that_gives_no_sign_of_life_is_ended(processes: EngineProcesses, engine: EngineProcess) -> None:
    processes.stall, pid = 0.5, engine.pid
    with pytest.raises(EngineLostError, match="no sign of life"):
        list(engine.generate([call("hang")]))
    assert gone(pid or 0)


def test_one_that_takes_steps_is_not_ended_however_long_a_call_takes(
    processes: EngineProcesses, engine: EngineProcess
) -> None:
    processes.stall = 2.6  # the call takes 3 s, with a sign of life each second
    assert [generation.text for _, generation in engine.generate([call("slow")])] == ["one: slow"]


def test_closing_returns_when_the_process_is_gone(engine: EngineProcess) -> None:
    pid = engine.pid or 0
    engine.close()
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Hasty(EngineProcesses):
    """Closes its engine just when that gets its process."""

    hastened: EngineProcess

    def connect(self) -> Connection:
        connection = super().connect()
        self.hastened.close()
        return connection


def test_an_engine_that_is_closed_while_it_starts_does_not_start(tmp_path: Path) -> None:
    processes = Hasty(MAKER, 50, PREPARE, stall=60, log=tmp_path / "state" / "engine.log")
    processes.hastened = engine = processes.engine()
    with pytest.raises(EngineLostError, match="closed while it started"):
        engine.start("models/one", {})
    assert (engine.model, engine.pid) == (None, None)
    processes.close()


def test_an_engine_starts_where_ends_of_processes_cannot_be_waited_for(
    processes: EngineProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> int:
        raise PermissionError("no such call in this sandbox")

    monkeypatch.setattr(os, "pidfd_open", refused)
    engine = processes.engine()
    engine.start("models/one", {})
    assert [generation.text for _, generation in engine.generate([call("a")])] == ["one: a"]
    engine.close()


def test_files_of_the_directory_that_it_is_started_in_are_not_taken_for_the_librarys(
    processes: EngineProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    engine = processes.engine()
    engine.start("models/one", {})
    assert engine.model == "models/one"
    engine.close()


def test_engines_end_when_whoever_leaves_in_the_middle_wants_no_more(engine: EngineProcess) -> None:
    pid, generating = engine.pid or 0, engine.generate([call("hang"), call("first", "2")])
    next(generating)
    generating.close()  # type: ignore[attr-defined]
    assert gone(pid)


def test_an_engine_that_was_never_started_says_so(processes: EngineProcesses) -> None:
    with pytest.raises(EngineError, match="not started"):
        processes.engine().resume()


def test_a_launcher_that_was_killed_is_started_again(processes: EngineProcesses, engine: EngineProcess) -> None:
    launcher = psutil.Process(engine.pid).parent()
    assert launcher is not None
    launcher.kill()
    assert gone(launcher.pid)
    other = processes.engine()
    other.start("models/two", {})
    assert other.model == "models/two"
    assert [generation.text for _, generation in engine.generate([call("still here")])] == ["one: still here"]
    other.close()


KILLED = f"""
import os, psutil, sys
from pathlib import Path
from symmoe.engines.process import EngineProcesses
from tests.engine.test_process import call
processes = EngineProcesses({MAKER!r}, 50, {PREPARE!r}, 60, Path(sys.argv[1]))
engine = processes.engine()
engine.start("one", {{}})
print(engine.pid, psutil.Process(engine.pid).ppid(), flush=True)
list(engine.generate([call("hang")]))
"""


def test_nothing_outlives_who_asked_for_it_even_if_that_is_killed_and_an_engine_hangs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        pids = [int(word) for word in (asking.stdout.readline() if asking.stdout else "").split()]
        assert len(pids) == 2
        asking.kill()
    assert all(gone(pid) for pid in pids)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembly]:
    """SmolLM2 with an adapter, and a random model of another architecture."""
    starter = read_pool("tiny")
    folder = tmp_path_factory.mktemp("models")
    random = random_model("qwen3", Assembly(starter).weights("generalist").model, folder / "random")
    experts = (starter.expert("generalist"), starter.expert("roman"), ExpertConfig(name="random", model=str(random)))
    engine = starter.engine.model_copy(update={"kv_cache_gib": 0.25, "max_num_seqs": 16})
    assembly = Assembly(starter.model_copy(update={"experts": experts, "engine": engine}))
    yield assembly
    assembly.close()


def said(assembly: Assembly, expert: str) -> list[str]:
    calls = [Call(expert, query(f"Write {number} as a Roman numeral.", str(number)), ()) for number in range(4, 8)]
    found = {call.query.id: generation.text for call, generation in assembly.engine.generate(calls)}
    return [found[call.query.id] for call in calls]


@pytest.mark.engine
@pytest.mark.slow
def test_engines_of_unlike_models_sleep_and_wake_with_what_they_had(unlike: Assembly) -> None:
    order = ["generalist", "random", "roman", "random", "generalist", "random", "roman"]
    lanes, answers = [], dict[str, list[list[str]]]()
    for expert in order:
        lanes.append(unlike.loader.ready(expert).lane)
        answers.setdefault(expert, []).append(said(unlike, expert))
    assert lanes == ["rebuild", "rebuild", *["wake"] * 5]
    assert all(each == found[0] for found in answers.values() for each in found)
    assert answers["roman"][0][0] == "IV" != answers["generalist"][0][0]
    engines = sleeping_engines(unlike)
    assert len(engines.processes) == 2
    assert 0 < engines.used <= engines.budget


def calls_of(expert: str, count: int) -> Step:
    asked = (query(f"Write {number} as a Roman numeral.", str(number)) for number in range(count))
    return Step(expert, tuple(Call(expert, each, (Assignment(each.id, expert, 0),)) for each in asked))


@pytest.mark.engine
@pytest.mark.slow
def test_engines_killed_asleep_and_awake_cost_no_line_and_answer_none_twice(unlike: Assembly) -> None:
    for expert in ("random", "generalist"):
        unlike.loader.ready(expert)
    engines, steps = sleeping_engines(unlike), [calls_of(name, 24) for name in ("roman", "random")]
    loads: list[Load] = []
    candidates: list[Candidate] = []
    for event in unlike.executor.run(Plan(tuple(steps))):
        if isinstance(event, Load):
            loads.append(event)
        else:
            candidates += event
            if len(candidates) == 5:
                awake, asleep = engines.processes
                _kill([awake, asleep])
    assert [(load.expert, load.lane) for load in loads[1:]] == [("roman", "rebuild"), ("random", "rebuild")]
    given = Counter((one.query_id, one.expert) for one in candidates)
    assert given == {(call.query.id, step.expert): 1 for step in steps for call in step.calls}
    assert {one.text for one in candidates if (one.query_id, one.expert) == ("4", "roman")} == {"IV"}
    assert all(one.finish_reason != "error" for one in candidates)


def _kill(processes: Sequence[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.engine
@pytest.mark.slow
def test_nothing_is_left_of_engines_after_closing(unlike: Assembly) -> None:
    processes = sleeping_engines(unlike).processes
    assert processes
    unlike.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
