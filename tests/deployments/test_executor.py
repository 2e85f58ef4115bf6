from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from symmoe.deployments.executor import RayExecutor
from symmoe.deployments.private_folder import MARK

from symmoe.config import read_pool
from symmoe.errors import EngineError, JobError
from symmoe.types import Assignment, Call, Candidate, Joint, Load, Plan, Refusal, Step
from tests.clusters import wait_for
from tests.conftest import echo_pool
from tests.deployments.conftest import EXPERTS, gone
from tests.deployments.trouble import asked, lines, pids
from tests.fakes import query

Events = Iterable[Load | list[Candidate]]


def step(expert: str, *texts: str, worker: int = 0) -> Step:
    """A step; an echo engine answers its last call first."""
    calls = (Call(expert, query(text, text), (Assignment(text, expert, 0),)) for text in texts)
    return Step(expert, tuple(calls), worker)


def numbered(count: int, first: str = "") -> list[str]:
    return [*([first] if first else []), *map(str, range(count))]


def texts(events: Events) -> Counter[str]:
    return Counter(c.text for event in events if isinstance(event, list) for c in event)


def answers(plan: Plan) -> Counter[str]:
    return Counter(f"{call.expert}: {call.query.text}" for step in plan.steps for call in step.calls)


def test_steps_of_two_workers_run_in_two_processes_and_every_call_is_answered_once(
    executor: RayExecutor, folder: Path
) -> None:
    plan = Plan((step("adder", *numbered(30)), step("speaker", *numbered(30), worker=1)))
    events = list(executor.run(plan))
    assert texts(events) == answers(plan)
    assert sorted(event.expert for event in events if isinstance(event, Load)) == ["adder", "speaker"]
    assert len(pids(folder)) == 2
    assert os.getpid() not in pids(folder)


def test_a_joint_step_begins_with_the_others_and_not_before(executor: RayExecutor, folder: Path) -> None:
    joint = Joint(0, 2, patience=60.0)
    plan = Plan(
        (
            replace(step("adder", "1"), joint=joint),
            step("speaker", "wait", worker=1),
            replace(step("adder", "2", worker=1), joint=joint),
        )
    )
    run = executor.run(plan)
    first = next(iter(run))
    assert isinstance(first, Load)
    assert first.expert == "speaker"
    (folder / "go").touch()
    assert texts(run) == answers(plan)


def test_nobody_waits_for_others_longer_than_his_patience(executor: RayExecutor, folder: Path) -> None:
    joint = Joint(0, 2, patience=0.2)
    plan = Plan(
        (
            replace(step("adder", "1"), joint=joint),
            step("speaker", "wait", worker=1),
            replace(step("adder", "2", worker=1), joint=joint),
        )
    )
    run = iter(executor.run(plan))
    before: list[Load | list[Candidate]] = []
    while "adder: 1" not in texts(before):
        before.append(next(run))
    assert "speaker: wait" not in texts(before)
    (folder / "go").touch()
    assert texts(before) + texts(run) == answers(plan)


def test_workers_live_on_from_one_plan_to_the_next(executor: RayExecutor, folder: Path) -> None:
    plan = Plan((step("adder", "1"),))
    first, second = list(executor.run(plan)), list(executor.run(plan))
    assert [event.lane for event in (first[0], second[0]) if isinstance(event, Load)] == ["rebuild", "resident"]
    assert len(pids(folder)) == 1


def test_a_worker_killed_from_outside_is_replaced_and_nothing_that_it_delivered_runs_again(
    executor: RayExecutor, folder: Path
) -> None:
    plan = Plan((step("adder", "wait", *numbered(20)), step("speaker", *numbered(20), worker=1)))
    before: list[Load | list[Candidate]] = []
    run = executor.run(plan)
    while sum(texts(before).values()) < 40:  # all but the one that waits
        before.append(next(run))
    line = wait_for(lambda: next((each for each in lines(folder) if "wait" in each), None), "the one that waits")
    waiting = int(line.split()[0])
    os.kill(waiting, signal.SIGKILL)
    (folder / "go").touch()
    after = list(run)
    assert texts(before) + texts(after) == answers(plan)
    assert asked(folder) == answers(plan) + Counter({"adder: wait": 1})
    assert len(pids(folder)) == 3


@pytest.mark.slow
def test_a_call_that_kills_its_worker_in_the_middle_of_a_step_is_run_again(executor: RayExecutor, folder: Path) -> None:
    plan = Plan((step("adder", *numbered(10), "deadly", *map(str, range(10, 20))),))
    events = list(executor.run(plan))
    assert texts(events) == answers(plan)
    loads = [place for place, event in enumerate(events) if isinstance(event, Load)]
    assert len(loads) >= 2
    assert all(asked(folder)[text] == 1 for text in texts(events[: loads[1]]))


@pytest.mark.slow
def test_a_call_that_kills_every_worker_is_given_up_and_all_others_are_answered(executor: RayExecutor) -> None:
    plan = Plan((step("adder", "1", "poison", "2"), step("speaker", "3", worker=1)))
    candidates = [c for event in executor.run(plan) if isinstance(event, list) for c in event]
    assert Counter((c.query_id, c.text, c.finish_reason) for c in candidates) == Counter(
        [("1", "adder: 1", "stop"), ("2", "adder: 2", "stop"), ("3", "speaker: 3", "stop"), ("poison", "", "error")]
    )


@pytest.mark.slow
def test_an_engine_that_raises_once_is_replaced_and_the_rest_of_its_step_runs_elsewhere(
    executor: RayExecutor, folder: Path
) -> None:
    plan = Plan((step("adder", "1", "crash", "2"), step("speaker", "3", worker=1)))
    assert texts(executor.run(plan)) == answers(plan)
    assert asked(folder) == answers(plan) + Counter({"adder: crash": 1})


def test_an_expert_that_cannot_be_loaded_is_an_error_after_all_else_is_done(executor: RayExecutor) -> None:
    plan = Plan((step("broken", "1"), step("adder", *numbered(9), worker=1)))
    events: list[Load | list[Candidate]] = []
    with pytest.raises(EngineError, match=r"^expert 'broken' failed 3 times: its weights are broken$") as raised:
        events.extend(executor.run(plan))
    assert raised.value.hint == "mend them"
    assert texts(events) == answers(Plan(plan.steps[1:]))


@pytest.mark.slow
def test_an_expert_that_kills_whoever_loads_it_is_an_error(executor: RayExecutor) -> None:
    with pytest.raises(EngineError, match="expert 'lethal' cannot be loaded: 3 workers died of it"):
        list(executor.run(Plan((step("lethal", "1"),))))


def test_whoever_stops_listening_in_the_middle_may_run_another_plan(executor: RayExecutor, folder: Path) -> None:
    run = executor.run(Plan((step("adder", "wait", "1"),)))
    next(run), next(run)
    run.close()  # type: ignore[attr-defined]
    abandoned = [psutil.Process(pid) for pid in pids(folder) if psutil.pid_exists(pid)]
    assert gone(set(abandoned))
    plan = Plan((step("adder", "2"),))
    assert texts(executor.run(plan)) == answers(plan)


def test_closing_ends_the_workers_and_may_be_done_twice(executor: RayExecutor, folder: Path) -> None:
    list(executor.run(Plan((step("adder", "1"),))))
    (worker,) = [psutil.Process(pid) for pid in pids(folder)]
    executor.close()
    executor.close()
    assert gone({worker})


@pytest.mark.slow
def test_a_closed_executor_begins_anew(executor: RayExecutor) -> None:
    plan = Plan((step("adder", "1"),))
    for _ in range(2):
        assert texts(executor.run(plan)) == answers(plan)
        executor.close()


def test_a_plan_without_work_starts_no_worker(executor: RayExecutor, folder: Path) -> None:
    assert list(executor.run(Plan((Step("adder", ()),)))) == []
    assert not pids(folder)


def test_refusals_are_those_of_the_engine_and_need_no_worker(executor: RayExecutor, folder: Path) -> None:
    refused = executor.refuse([query("short", "1"), query("word " * 70, "2")], "adder")
    assert refused[0] is None
    assert isinstance(refused[1], Refusal)
    assert not pids(folder)


def test_more_workers_than_there_is_room_for_are_an_error_at_once(ray_here: None, tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path, EXPERTS)))
    with RayExecutor(pool, 1000) as executor, pytest.raises(JobError, match="not for 1000"):
        list(executor.run(Plan((step("adder", "1"),))))


def _ours(process: psutil.Process) -> bool:
    """Whether a process is of the Ray that these tests have started; tests of clusters start others."""
    try:
        return MARK in process.environ()
    except psutil.Error:  # it has ended meanwhile
        return False


IMPORTED_EARLIER = """
import sys, ray, psutil
from symmoe.deployments.session import ray_session
with ray_session(1):
    ports = [c for p in psutil.Process().children(recursive=True) for c in p.net_connections("inet")]
    print(sorted({c.laddr.ip.removeprefix('::ffff:') for c in ports if c.status == psutil.CONN_LISTEN}))
"""


@pytest.mark.slow
def test_nor_where_ray_was_imported_before_symmoe_said_what_it_may_do(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", IMPORTED_EARLIER], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "['127.0.0.1']"


def test_nobody_beyond_this_machine_reaches_any_of_the_processes(executor: RayExecutor) -> None:
    list(executor.run(Plan((step("adder", "1"),))))
    processes = [each for each in psutil.Process().children(recursive=True) if _ours(each)]
    listening = {
        (" ".join(process.cmdline())[:200], connection.laddr.ip)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert not {each for each in listening if each[1] not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}}
