"""The same questions asked through every door: a batch of the command line, one of the service, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from symmoe.deployments.settings import Settings

from symmoe.batch.job import BatchJob, run_batch
from symmoe.build import fingerprint
from symmoe.config import read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.pipeline import UNWATCHED
from tests.batch.conftest import MemoryStore, read_jsonl
from tests.conftest import SKILLS, echo_pool
from tests.deployments.api.conftest import EXPERTS, Running, assembled, running
from tests.deployments.batches.conftest import ended, rows_of, start, state_in

COUNT = 200
SOUND = EXPERTS[:3]
"""An expert that cannot be made ready ends a batch of the command line, which resumes; online it has no say."""
WINDOW = 64
MODELS = ("symmoe/auto", "symmoe/fast", "symmoe/best", "adder", "symmoe/auto", "speaker", "nobody")
Body = dict[str, Any]
Told = dict[str, Any]
"""What came of one question: its choices and usage and traces, or the status and code of an error."""


def body(number: int) -> Body:
    """Question and policy, one after the other through all of them; no two have the same words."""
    first, second = SKILLS[number % len(SKILLS)], SKILLS[number // 5 % len(SKILLS)]
    text = f"{first} {second} {number}"
    if number % 23 == 0:
        text += " word" * WINDOW
    asked: Body = {"model": MODELS[number % len(MODELS)], "messages": [{"role": "user", "content": text}]}
    asked["symmoe"] = {"explain": True}
    if number % 4:
        asked["symmoe"] |= {"k": number % 4, "aggregate": ("auto", "always", "never")[number // 4 % 3]}
    if number % 6:
        asked["symmoe"] |= {"quality": number % 6 / 4 - 0.25}
    if number % 3 == 0:
        asked |= {"temperature": 0.7, "seed": number, "n": 1 + number % 2}
    if number % 11 == 0:
        asked |= {"stop": ["x", "y"], "max_tokens": 9, "max_completion_tokens": 7}
    if number % 13 == 0:
        asked["response_format"] = {"type": "json_object"}
    if number % 37 == 0:
        asked["top_p"] = 7
    return asked


def line(number: int) -> Body:
    return {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": body(number)}


def trace_told(trace: Told) -> Told:
    """What a trace tells but for names and lanes, which are the driver's."""
    kept = {
        name: trace[name]
        for name in ("way", "skills", "facets", "shares", "recruited", "verdicts", "consensus", "posterior")
    }
    said = [_said(each) for each in trace["candidates"]]
    answer = {name: value for name, value in trace["answer"].items() if name != "query_id"}
    return {**kept, "candidates": said, "answer": answer, "synthesis": trace["synthesis"] and _said(trace["synthesis"])}


def _said(candidate: Told) -> Told:
    return {name: value for name, value in candidate.items() if name not in ("query_id", "lane")}


def told(status: int, body: Told, traces: list[Told] | None = None) -> Told:
    if status != 200:
        return {"status": status, "code": body["error"]["code"], "param": body["error"]["param"]}
    found = body["symmoe"]["traces"] if traces is None else traces
    return {
        "choices": [(c["index"], c["message"]["content"], c["finish_reason"]) for c in body["choices"]],
        "usage": body["usage"],
        "model": body["model"],
        "traces": sorted((trace_told(trace) for trace in found), key=json.dumps),
    }


@pytest.fixture(scope="module", params=[None, "sorter"], ids=["vote", "synthesis"])
def sections(request: pytest.FixtureRequest) -> Body:
    aggregation = {"trust": 0.6} if request.param is None else {"trust": 0.6, "aggregator": request.param}
    return {"routing": {"top_p": 0.9}, "aggregation": aggregation}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, sections: Body) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    with state_in(folder), running(folder, Settings(batch_lease=1.0), experts=SOUND, **sections) as service:
        yield service


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory, sections: Body) -> list[Told]:
    """What `symmoe batch run` makes of them."""
    folder = tmp_path_factory.mktemp("batch")
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(line(number)) + "\n" for number in range(COUNT)), encoding="utf-8")
    pool = read_pool(str(echo_pool(folder, SOUND, **sections)))
    job = BatchJob(source, folder / "out.jsonl", pool, fingerprint(pool), None, 0, explain=True)
    run_batch(job, _Ready(assembled(pool, EchoEngine(WINDOW))), MemoryStore(), False, UNWATCHED)
    traces: dict[str, list[Told]] = {}
    for trace in read_jsonl(job.trace):
        traces.setdefault(trace["query_id"].split("\x1f")[0], []).append(trace)
    rows = read_jsonl(job.output)
    return [
        told(row["response"]["status_code"], row["response"]["body"], traces.get(row["custom_id"], [])) for row in rows
    ]


class _Ready:
    """Gives the parts of an assembly."""

    def __init__(self, assembly: Any) -> None:
        self.parts = assembly.parts


def test_a_batch_of_the_service_gives_what_the_command_gives(served: Running, by_command: list[Told]) -> None:
    client = served.openai
    over = ended(client, start(client, [line(number) for number in range(COUNT)]))
    rows = [*rows_of(client, over.output_file_id), *rows_of(client, over.error_file_id)]
    given = {row["custom_id"]: told(row["response"]["status_code"], row["response"]["body"]) for row in rows}
    assert [given[f"q{number}"] for number in range(COUNT)] == by_command


def test_whole_answers_are_what_the_command_gives(served: Running, by_command: list[Told]) -> None:
    def ask(number: int) -> Told:
        response = served.post(json=body(number))
        return told(response.status_code, response.json())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(COUNT))) == by_command


def test_streamed_answers_are_what_the_command_gives(served: Running, by_command: list[Told]) -> None:
    def ask(number: int) -> Told:
        asked = body(number) | {"stream": True, "stream_options": {"include_usage": True}}
        response = served.post(json=asked)
        if response.status_code != 200:
            return told(response.status_code, response.json())
        chunks = [json.loads(each[6:]) for each in response.text.splitlines() if each.startswith("data: {")]
        choices: dict[int, Told] = {}
        for choice in (choice for chunk in chunks for choice in chunk["choices"]):
            empty = {"index": choice["index"], "message": {"content": ""}, "finish_reason": None}
            known = choices.setdefault(choice["index"], empty)
            known["message"]["content"] += choice["delta"].get("content", "")
            known["finish_reason"] = choice["finish_reason"] or known["finish_reason"]
        return told(200, {**chunks[-1], "choices": [choices[place] for place in sorted(choices)]})

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(COUNT))) == by_command


def test_the_questions_go_every_way_and_fail_in_every_way(by_command: list[Told]) -> None:
    ways = {trace["way"] for each in by_command for trace in each.get("traces", ())}
    assert ways == {"named", "single", "aggregated"}
    assert {each["code"] for each in by_command if "code" in each} == {
        "model_not_found",
        "context_length_exceeded",
        "invalid_value",
    }
