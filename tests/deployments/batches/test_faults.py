"""What dies comes back, and every line is answered exactly once."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import running
from tests.deployments.batches.conftest import ended, exactly_once, line, start, until
from tests.stores import connected, state_in

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path) as folder:
        yield folder


@dataclass(frozen=True)
class Process:
    """A service in a process of its own: a client for it, its number, and what ends it with a signal."""

    client: openai.OpenAI
    pid: int
    end: Callable[[int], None]


@contextmanager
def process(folder: Path, step: float = 0.01) -> Iterator[Process]:
    """A service in a process of its own whose engine takes so many seconds for a step."""
    command = [sys.executable, "-m", "tests.deployments.batches.process", str(folder), str(step)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        try:
            url = f"http://127.0.0.1:{port}/v1"
            client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)

            def end(number: int) -> None:
                child.send_signal(number)
                child.wait(60)

            yield Process(client, child.pid, end)
        finally:
            child.kill()


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text(encoding="utf-8").splitlines()


def test_another_service_takes_up_what_one_that_was_killed_has_left(stored: Path, tmp_path: Path) -> None:
    count = 60
    with process(tmp_path) as service:
        client = service.client
        batch = start(client, [line(n) for n in range(count)])
        until(client, batch, lambda found: found.request_counts.completed > count / 5)
        service.end(signal.SIGKILL)
    done = connected().hlen(f"symmoe:batch:{{{batch.id}}}:lines")
    with running(tmp_path, Settings(batch_lease=1.0)) as service:
        exactly_once(service.openai, ended(service.openai, batch), count)
        assert len(service.engine.asked) == count - done  # what had its row was not asked again


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_that_ends_in_mid_batch_goes_on_where_it_was(stored: Path, tmp_path: Path, number: int) -> None:
    count = 500
    with process(tmp_path, step=0.05) as service:  # the store's client may swallow a cancellation, which costs seconds
        client = service.client
        batch = start(client, [line(n) for n in range(count)])
        until(client, batch, lambda found: found.request_counts.completed > count / 5)
        service.end(number)
    done = connected().hlen(f"symmoe:batch:{{{batch.id}}}:lines")
    assert count / 5 < done < count
    with process(tmp_path) as service:
        client = service.client
        exactly_once(client, ended(client, batch, 60), count)
    assert count < len(asked(tmp_path)) <= 2 * count - done  # what had its row was not asked again


def test_two_services_over_one_store_never_run_one_batch_twice(stored: Path, tmp_path: Path) -> None:
    settings = Settings(batch_lease=1.0)
    with running(tmp_path, settings) as one, running(tmp_path, settings) as other:
        batches = [start(client, [line(n) for n in range(90)]) for client in (one.openai, other.openai) for _ in "ab"]
        for batch in batches:
            exactly_once(other.openai, ended(one.openai, batch), 90)
        assert len(one.engine.asked) + len(other.engine.asked) == 4 * 90


@contextmanager
def store_away(state: Path) -> Iterator[None]:
    """The store is killed, and nobody can start it as long as the block lasts."""
    with (state / "valkey.lock").open("a") as lock:
        while True:
            with suppress(ProcessLookupError):
                os.kill(int((state / "valkey.pid").read_text()), signal.SIGKILL)
            with suppress(BlockingIOError):  # it is not gone yet, or was started anew already
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.005)
        yield


def test_what_is_answered_while_the_store_is_away_is_kept(stored: Path, tmp_path: Path) -> None:
    rows = [{**line(n), "body": {**line(n)["body"], "model": "adder"}} for n in range(40)]
    rows[0]["body"]["messages"] = [{"role": "user", "content": "hold on"}]
    with running(tmp_path, Settings(batch_lease=1.0)) as service:
        client = service.openai
        batch = start(client, rows)
        until(client, batch, lambda found: found.request_counts.completed == 39)
        with store_away(stored):
            service.engine.released.set()
            threading.Event().wait(0.5)
        over = ended(client, batch)
        output = [json.loads(row) for row in client.files.content(str(over.output_file_id)).text.splitlines()]
        assert [row["custom_id"] for row in output] == [f"line-{n}" for n in range(40)]
        assert len(service.engine.asked) == 40


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10.0])
def test_a_store_that_was_away_for_a_while_costs_no_line(stored: Path, tmp_path: Path, seconds: float) -> None:
    count = 300
    with process(tmp_path) as service:
        client = service.client
        batch = start(client, [line(n) for n in range(count)])
        until(client, batch, lambda found: found.request_counts.completed > count / 10)
        with store_away(stored):
            threading.Event().wait(seconds)
        exactly_once(client, ended(client, batch, 60), count)


def test_what_the_store_forgot_is_answered_again(stored: Path, tmp_path: Path) -> None:
    """As after a crash, rows are gone that were there: while the batch runs, and when its files are written."""
    with running(tmp_path, Settings(batch_lease=1.0)) as service:
        client = service.openai
        held = {**line(1), "body": {"model": "adder", "messages": [{"role": "user", "content": "sums hold"}]}}
        batch = start(client, [line(0), held, line(3)])
        until(client, batch, lambda found: found.request_counts.completed == 2)
        store = connected()
        assert store.hdel(f"symmoe:batch:{{{batch.id}}}:lines", "1", "3") == 2
        store.hset(f"symmoe:batch:{{{batch.id}}}", mapping={"answered": 0})
        service.engine.released.set()
        over = ended(client, batch)
        rows = client.files.content(str(over.output_file_id)).text.splitlines()
        assert len(rows) == 3
        assert over.request_counts is not None
        assert over.request_counts.completed == 3


def test_an_engine_that_fails_costs_no_line(stored: Path, tmp_path: Path) -> None:
    rows = [line(n) for n in range(50)]
    rows[7]["body"]["messages"][0]["content"] = "sorting crash"
    with running(tmp_path, Settings(batch_lease=1.0)) as service:
        over = ended(service.openai, start(service.openai, rows))
        assert service.engine.crashed
        assert over.request_counts is not None
        assert (over.request_counts.completed, over.request_counts.failed) == (50, 0)


def test_an_expert_that_is_away_is_asked_again_until_the_window_ends(stored: Path, tmp_path: Path) -> None:
    broken = {**line(1), "body": {"model": "broken", "messages": [{"role": "user", "content": "sums"}]}}
    with running(tmp_path, Settings(batch_lease=1.0, batch_window=3.0)) as service:
        client = service.openai
        late, prompt = start(client, [broken, line(0)]), start(client, [line(0)])
        exactly_once(client, ended(client, prompt), 1)  # the one that waits holds nobody up
        over = ended(client, late)
        assert over.status == "expired"
        assert over.expired_at
        counts = over.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (2, 1, 1)
        error = client.files.content(str(over.error_file_id)).text
        assert '"batch_expired"' in error
        assert service.metric('symmoe_batch_lines_total{outcome="retried"}') >= 1


@pytest.mark.slow
def test_online_requests_are_answered_beside_a_large_batch(stored: Path, tmp_path: Path) -> None:
    with process(tmp_path) as service:
        client = service.client
        batch = start(client, [line(n) for n in range(400)])
        until(client, batch, lambda found: found.request_counts.completed > 20)
        messages = [{"role": "user", "content": "sums now"}]
        answer = client.chat.completions.create(model="adder", messages=messages)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "adder: sums now"
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        assert counts.completed < 400


def test_a_service_without_files_leaves_the_store_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMOE_STATE", str(tmp_path / "none"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    with running(tmp_path, Settings()) as service:
        assert service.get("/health").status_code == 200
    assert not (tmp_path / "none").exists()
