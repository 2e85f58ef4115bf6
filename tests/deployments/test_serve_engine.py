"""`symmoe serve` with the starter pool on vLLM, as a newcomer would start it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import openai
import psutil
import pytest

from tests.deployments.conftest import gone

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A client of a service in a process of its own, which is stopped as Ctrl-C would and leaves no process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = "from symmoe.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--pool", "starter", "--port", port, "--json"]
    pipe = subprocess.PIPE
    with psutil.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        said = "".join(process.stdout.readline() for _ in range(5))
        yield openai.OpenAI(base_url=json.loads(said)["url"], api_key="none", max_retries=0, timeout=120)
        started = process.children(recursive=True)
        process.terminate()
        _, told = process.communicate(timeout=90)
        assert (process.returncode, told) == (0, "finishing open requests\n")
        assert gone(started)


def ask(client: openai.OpenAI, model: str, text: str, **options: object) -> str:
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=model, messages=messages, **options)  # type: ignore[call-overload]
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize(
    ("text", "right"), [("Write 14 as a Roman numeral.", "XIV"), ("What is 17 + 25?", "42")], ids=["roman", "sum"]
)
def test_auto_asks_the_specialist_and_its_answer_is_right(client: openai.OpenAI, text: str, right: str) -> None:
    assert ask(client, "symmoe/auto", text) == right


def test_a_stream_adds_up_to_the_whole_answer_of_the_same_expert(client: openai.OpenAI) -> None:
    text = "Tell me about the sea."
    whole = ask(client, "generalist", text, max_tokens=24)
    stream = client.chat.completions.create(
        model="generalist", messages=[{"role": "user", "content": text}], max_tokens=24, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) > 5


def test_an_answer_stops_where_it_is_told_to(client: openai.OpenAI) -> None:
    assert "." not in ask(client, "generalist", "Tell me about the sea.", stop=["."])


def test_best_puts_the_answers_of_several_experts_together(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    options = {"symmoe": {"explain": True}}
    answer = client.chat.completions.create(model="symmoe/best", messages=messages, extra_body=options)  # type: ignore[arg-type]
    assert len(answer.symmoe["generations"]) == 3  # type: ignore[attr-defined]
    assert answer.choices[0].message.content == "42"


def test_a_prompt_beyond_the_window_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, "generalist", "word " * 5000)
    assert raised.value.code == "context_length_exceeded"
