"""The service on Ray Serve: the official client, and replicas that die."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from symmoe.deployments.serving import Served, serving
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from symmoe.errors import JobError
from tests.conftest import echo_pool
from tests.deployments.streaming_trouble import troubled_streams

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's own models


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def served(ray_here: None, place: Path) -> Iterator[Served]:
    pool = read_pool(str(echo_pool(place)))
    with serving(pool, Settings(stall=3.0), port=free_port(), build=troubled_streams) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client: openai.OpenAI, text: str, model: str = "adder", **options: object) -> str:
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=model, messages=messages, **options)  # type: ignore[call-overload]
    return str(answer.choices[0].message.content)


def test_the_official_client_is_answered_whole_streamed_and_by_name(client: openai.OpenAI) -> None:
    assert ask(client, "spanish five", "symmoe/auto") == "speaker: spanish five"
    assert ask(client, "spanish five", "sorter") == "sorter: spanish five"
    messages = [{"role": "user", "content": "sums of 1 2 3"}]
    stream = client.chat.completions.create(
        model="symmoe/auto",
        messages=messages,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "adder: sums of 1 2 3"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 11
    assert "symmoe/auto" in [model.id for model in client.models.list()]


def test_errors_are_the_clients_own(client: openai.OpenAI, served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "sums", "nobody")
    with pytest.raises(openai.BadRequestError):
        ask(client, "sums", temperature=9)
    assert httpx.post(f"{served.url}/v1/chat/completions", content=b"{", timeout=20).status_code == 415
    assert httpx.get(f"{served.url}/ready", timeout=20).json() == {"status": "ready"}


def test_many_at_once_are_all_answered_each_its_own(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(16) as pool:
        asked = {f"{skill} {n}": skill for n in range(20) for skill in ("sums", "spanish", "sorting")}
        answers = dict(zip(asked, pool.map(lambda text: ask(client, text, "symmoe/auto"), asked), strict=True))
    names = {"sums": "adder", "spanish": "speaker", "sorting": "sorter"}
    assert answers == {text: f"{names[skill]}: {text}" for text, skill in asked.items()}


def test_a_client_that_leaves_is_noticed_and_its_place_is_free(client: openai.OpenAI, served: Served) -> None:
    body = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}], "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=20) as response:
        assert any("adder" in line for line in response.iter_lines())
    assert ask(client, "sums", "sorter") == "sorter: sums"  # no other expert's turn comes while one generates


def test_experts_come_and_go_in_all_processes(client: openai.OpenAI, served: Served) -> None:
    experts = f"{served.url}/v1/admin/experts"
    joined = httpx.post(
        experts, json={"expert": {"name": "poet", "model": "org/base", "adapter": "./poet"}}, timeout=20
    )
    assert joined.status_code == 201, joined.text
    assert ask(client, "sums", "poet") == "poet: sums"
    assert httpx.post(f"{experts}/speaker/quarantine", json={}, timeout=20).json()["state"] == "quarantined"
    with pytest.raises(openai.InternalServerError, match="quarantined"):
        ask(client, "spanish", "speaker")
    assert not ask(client, "spanish five", "symmoe/fast").startswith("speaker")
    (engine,) = httpx.get(experts, timeout=20).json()["engines"]
    assert engine["expert"] in ("adder", "sorter", "poet")
    assert httpx.delete(f"{experts}/poet", timeout=20).status_code == 200
    assert httpx.post(f"{experts}/speaker/restore", json={}, timeout=20).json()["state"] == "active"
    assert ask(client, "spanish five", "symmoe/auto") == "speaker: spanish five"
    with pytest.raises(openai.NotFoundError):
        ask(client, "sums", "poet")


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["deadly", "hang"])
def test_a_replica_that_dies_or_hangs_is_replaced_and_its_requests_are_answered(
    client: openai.OpenAI, trouble: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        texts = [f"{trouble} question", "sums 1", "sums 2", "sums 3"]
        assert list(pool.map(lambda text: ask(client, text), texts)) == [f"adder: {text}" for text in texts]


@pytest.mark.slow
def test_sigterm_under_load_lets_open_requests_finish(tmp_path: Path) -> None:
    import sys

    import psutil

    pool, port = echo_pool(tmp_path), free_port()
    words = ["serve", "--pool", str(pool), "--port", str(port)]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    root = Path(__file__).parents[2]
    with psutil.Popen(command, cwd=root, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert "is ready at" in process.stdout.readline()
        body = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with ThreadPoolExecutor(1) as threads:
            open_one = threads.submit(httpx.post, url, json=body, timeout=60)
            while not (tmp_path / "asked").exists():
                threading.Event().wait(0.02)
            process.terminate()
            while httpx.get(f"http://127.0.0.1:{port}/ready", timeout=20).status_code == 200:
                threading.Event().wait(0.02)
            (tmp_path / "go").touch()
            assert open_one.result(60).json()["choices"][0]["message"]["content"] == "adder: hold on"
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "finishing open requests\n"


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_a_service_with_keys_takes_those_of_the_store_and_no_others(tmp_path: Path) -> None:
    import json
    import sys

    import psutil

    def key(*words: str) -> dict[str, str]:
        command = [sys.executable, "-c", "from symmoe.cli.main import main; main()", "key", *words, "--json"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return dict(json.loads(said))

    pool, port, made = echo_pool(tmp_path), free_port(), key("create", "team")
    words = ["serve", "--pool", str(pool), "--port", str(port), "--keys", "--cache", "60"]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    root = Path(__file__).parents[2]
    with psutil.Popen(command, cwd=root, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert "is ready at" in process.stdout.readline()
        known = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=made["key"], max_retries=0, timeout=60)
        assert ask(known, "sums") == ask(known, "sums") == "adder: sums"
        assert 'symmoe_cache_total{result="hit"} 1.0' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        with pytest.raises(openai.AuthenticationError):
            ask(known.with_options(api_key="none"), "sums")
        key("revoke", made["id"])
        threading.Event().wait(1.1)
        with pytest.raises(openai.AuthenticationError):
            ask(known, "sums")
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_port_that_is_taken_is_said_before_anything_is_started(place: Path) -> None:
    pool = read_pool(str(echo_pool(place / "taken")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(JobError, match="cannot be used"), serving(pool, Settings(), port=taken.getsockname()[1]):
            pass


def test_other_machines_are_not_served_without_keys(place: Path) -> None:
    pool = read_pool(str(echo_pool(place / "open")))
    with pytest.raises(JobError, match="no keys"), serving(pool, Settings(), host="0.0.0.0"):  # noqa: S104
        pass
