"""A dedicated expert on `ray.serve.llm` beside experts that take turns, as `symmoe serve` starts them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml
from symmoe.deployments.watching import Samples

from symmoe.config import read_pool, shipped_pool
from symmoe.yaml_text import load_yaml
from tests.clusters import wait_for
from tests.deployments.conftest import gone
from tests.deployments.serving import client_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SEA = "Tell me about the sea."


def written(folder: Path) -> Path:
    """The starter pool with its base model on an engine of its own; its adapters take turns on another."""
    starter = shipped_pool("tiny")
    pool = load_yaml(starter.read_text())
    for expert in pool["experts"]:
        expert["adapter"] = str(starter.parent / expert["adapter"]) if expert.get("adapter") else None
        expert["dedicated"] = expert["name"] == "generalist"
    pool["aggregation"] = {"aggregator": "generalist", "when": "always"}
    pool["engine"] |= {"max_num_seqs": 8, "kv_cache_gib": 0.5}
    file = folder / "pool.yaml"
    file.write_text(yaml.safe_dump(pool | {"name": "dedicated"}))
    assert read_pool(str(file)).expert("generalist").dedicated is not None
    return file


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    pytest.importorskip("jsonref", reason="needs symmoe[dedicated]")
    pool = written(tmp_path_factory.mktemp("pool"))
    with client_of(str(pool), tmp_path_factory.mktemp("state")) as made:
        yield made


def ask(client: openai.OpenAI, model: str, text: str, **options: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **options)  # type: ignore[call-overload,no-any-return]


def said(client: openai.OpenAI, model: str, text: str, **options: object) -> str:
    return str(ask(client, model, text, **options).choices[0].message.content)


def streamed(client: openai.OpenAI, model: str, text: str, **options: object) -> list[str]:
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model=model, messages=[{"role": "user", "content": text}], stream=True, **options
    )
    return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]


def test_both_kinds_are_asked_by_name_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = ask(client, "generalist", SEA, max_tokens=24)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    assert whole.choices[0].finish_reason == "length"
    pieces = streamed(client, "generalist", SEA, max_tokens=24)
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 5
    assert said(client, "roman", "Write 14 as a Roman numeral.") == "XIV"
    assert "".join(streamed(client, "roman", "Write 14 as a Roman numeral.")) == "XIV"


def test_the_page_of_metrics_has_what_its_engine_counts(client: openai.OpenAI) -> None:
    page = str(client.base_url.join("/metrics"))

    def generated() -> float:
        return Samples(httpx.get(page).text).sum("vllm:generation_tokens_total", model_name="generalist")

    ask(client, "generalist", SEA, max_tokens=24)
    wait_for(lambda: generated() > 0, "its first count")
    before = generated()
    ask(client, "generalist", SEA, max_tokens=24)
    wait_for(lambda: generated() == before + 24, "the tokens of one more answer")


def test_auto_asks_the_one_that_the_question_calls_for_wherever_it_is(client: openai.OpenAI) -> None:
    for text, expert in (("Write 14 as a Roman numeral.", "roman"), (SEA, "generalist")):
        explained = ask(client, "symmoe/auto", text, extra_body={"symmoe": {"explain": True, "k": 1}})
        assert explained.symmoe["asked"] == [expert]  # type: ignore[attr-defined]
        assert "".join(streamed(client, "symmoe/auto", text, extra_body={"symmoe": {"k": 1}}))


def test_it_writes_the_answer_from_what_the_others_said(client: openai.OpenAI) -> None:
    answer = ask(client, "symmoe/best", "Write 14 as a Roman numeral.", extra_body={"symmoe": {"explain": True}})
    *others, aggregator = [each["expert"] for each in answer.symmoe["generations"]]  # type: ignore[attr-defined]
    assert "roman" in others
    assert aggregator == "generalist"
    assert answer.symmoe["answers"][0]["origin"] != "vote"  # type: ignore[attr-defined]


def test_seeds_stops_and_choices_are_kept(client: openai.OpenAI) -> None:
    drawn = [said(client, "generalist", SEA, temperature=0.9, seed=seed, max_tokens=16) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "." not in said(client, "generalist", SEA, stop=["."])
    several = ask(client, "generalist", SEA, temperature=0.9, seed=3, n=3, max_tokens=16)
    assert len({choice.message.content for choice in several.choices}) == 3


def test_an_answer_follows_the_schema_that_was_asked_for(client: openai.OpenAI) -> None:
    fields = {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}}
    schema = {"type": "object", "properties": fields, "required": ["name", "age"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    person = json.loads(said(client, "generalist", "Invent a person.", response_format=form, max_tokens=64))
    assert set(person) == {"name", "age"}


def test_what_it_cannot_answer_is_refused_as_elsewhere(client: openai.OpenAI) -> None:
    for model in ("generalist", "roman"):
        with pytest.raises(openai.BadRequestError) as raised:
            ask(client, model, "word " * 5000)
        assert raised.value.code == "context_length_exceeded"
        form = {"type": "json_schema", "json_schema": {"name": "no", "schema": {"type": "nonsense"}}}
        with pytest.raises(openai.BadRequestError):
            ask(client, model, "Invent a person.", response_format=form)


def test_a_client_that_leaves_takes_its_request_with_it(client: openai.OpenAI) -> None:
    body = {"model": "generalist", "messages": [{"role": "user", "content": SEA}], "max_tokens": 1800, "stream": True}
    with httpx.stream("POST", f"{client.base_url}chat/completions", json=body, timeout=60) as response:
        assert any('"content":"' in line for line in response.iter_lines())
    until = time.monotonic() + 10
    while running(client, "generalist"):
        assert time.monotonic() < until
        threading.Event().wait(0.2)


def running(client: openai.OpenAI, expert: str) -> int:
    engines = httpx.get(f"{client.base_url}admin/experts", timeout=20).json()["engines"]
    return sum(int(engine["running"]) for engine in engines if engine["expert"] == expert)


def test_a_quarantined_one_is_not_asked(client: openai.OpenAI) -> None:
    path = f"{client.base_url}admin/experts/generalist"
    assert httpx.post(f"{path}/quarantine", json={}, timeout=20).json()["state"] == "quarantined"
    with pytest.raises(openai.InternalServerError, match="quarantined"):
        ask(client, "generalist", SEA)
    assert httpx.post(f"{path}/restore", json={}, timeout=20).json()["state"] == "active"
    assert said(client, "generalist", SEA, max_tokens=4)


def test_its_process_is_killed_and_it_comes_back(client: openai.OpenAI) -> None:
    """Last: a routed question goes to the next best at once, who named it waits or is told with a 503; then it answers
    again.
    """

    def routed(**more: object) -> httpx.Response:
        body = {"model": "symmoe/fast", "messages": [{"role": "user", "content": SEA}], "max_tokens": 4, **more}
        url, anew = f"{client.base_url}chat/completions", {"cache-control": "no-store"}
        return httpx.post(url, json=body, headers=anew, timeout=60)

    assert routed().headers["x-symmoe-experts"] == "generalist"
    ours = [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    (replica,) = [each for each in ours if "dedicated-generalist" in "".join(each.cmdline())]
    engine = replica.children(recursive=True)
    replica.kill()
    assert gone(engine, 30)
    for stream in (False, True):
        response = routed(stream=stream)
        asked, answered = response.headers["x-symmoe-fallback"].split("->")
        assert (response.status_code, asked) == (200, "generalist")
        assert answered == response.headers["x-symmoe-experts"] != "generalist"
    assert said(client, "roman", "Write 14 as a Roman numeral.") == "XIV"
    until = time.monotonic() + 150
    while True:
        try:
            assert said(client, "generalist", SEA, max_tokens=4)
            break
        except openai.InternalServerError as error:
            assert error.response.headers["retry-after"]  # noqa: PT017
            assert time.monotonic() < until
    while "x-symmoe-fallback" in routed().headers:
        assert time.monotonic() < until
