"""The same questions asked through every door: a batch of the command line, one of the service, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.settings import Settings

from symmoe.batch.job import BatchJob, run_batch
from symmoe.build import Assembly, fingerprint
from symmoe.config import Pool, read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.pipeline import UNWATCHED
from symmoe.questions.suites import mixed_suite
from tests.batch.conftest import MemoryStore, read_jsonl
from tests.conftest import SKILLS, echo_pool
from tests.deployments.api.conftest import EXPERTS, Running, assembled, running
from tests.deployments.batches.conftest import ended, rows_of, start
from tests.stores import state_in

SOUND = EXPERTS[:3]
"""An expert that cannot be made ready ends a batch of the command line, which resumes; online it has no say."""
WINDOW = 64
Body = dict[str, Any]
Told = dict[str, Any]
"""What came of one question: its choices and usage and traces, or the status and code of an error."""


@dataclass(frozen=True)
class Asked:
    """A pool, and the questions that it is asked."""

    pool: Pool
    engine: EchoEngine | None
    """None where the pool's own is started."""
    texts: Sequence[str]
    models: Sequence[str]

    def assembly(self) -> Assembly:
        return assembled(self.pool, self.engine) if self.engine else Assembly(self.pool)

    def bodies(self) -> list[Body]:
        window = self.pool.engine.max_model_len or WINDOW
        return [body(number, text, self.models, window) for number, text in enumerate(self.texts)]

    def lines(self) -> list[Body]:
        asked = {"method": "POST", "url": "/v1/chat/completions"}
        return [{"custom_id": f"q{number}", **asked, "body": body} for number, body in enumerate(self.bodies())]


def models(first: str, second: str) -> Sequence[str]:
    return ("symmoe/auto", "symmoe/fast", "symmoe/best", first, "symmoe/auto", second, "nobody")


def body(number: int, text: str, models: Sequence[str], window: int) -> Body:
    """Question and policy, one after the other through all of them."""
    if number % 23 == 0:
        text += " word" * window
    asked: Body = {"model": models[number % len(models)], "messages": [{"role": "user", "content": text}]}
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


def echoes(folder: Path, **aggregation: str) -> Asked:
    """200 questions to echoes; no two have the same words."""
    sections: Body = {"routing": {"top_p": 0.9}, "aggregation": {"trust": 0.6, **aggregation}}
    texts = [f"{SKILLS[n % len(SKILLS)]} {SKILLS[n // 5 % len(SKILLS)]} {n}" for n in range(200)]
    return Asked(
        read_pool(str(echo_pool(folder, SOUND, **sections))), EchoEngine(WINDOW), texts, models("adder", "speaker")
    )


def real() -> Asked:
    """Forty questions to vLLM on real weights, one at a time: which others stand in a batch moves bf16's last bits."""
    pool = read_pool("tiny")
    changed = {
        "sampling": pool.sampling.model_copy(update={"max_tokens": 16}),
        "engine": pool.engine.model_copy(update={"max_num_seqs": 1}),
    }
    texts = [each.question for each in mixed_suite(4, "test", 11)][:40]
    return Asked(pool.model_copy(update=changed), None, texts, models("roman", "dates"))


@pytest.fixture(
    scope="module",
    params=["vote", "synthesis", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.engine])],
)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    if request.param == "vllm":
        return real()
    aggregator = {"aggregator": "sorter"} if request.param == "synthesis" else {}
    return echoes(tmp_path_factory.mktemp("pool"), **aggregator)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, asked: Asked, by_command: list[Told]) -> Iterator[Running]:
    """A service of the same pool, begun when the command is done: two engines would take memory and cores."""
    folder, first = tmp_path_factory.mktemp("service"), asked.pool.names[0]
    settings = Settings(batch_lease=1.0)
    with (
        state_in(folder),
        running(folder, settings, first=first, pool=asked.pool, real=asked.engine is None) as service,
    ):
        yield service


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory, asked: Asked) -> list[Told]:
    """What `symmoe batch run` makes of them."""
    folder = tmp_path_factory.mktemp("batch")
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in asked.lines()), encoding="utf-8")
    job = BatchJob((str(source),), folder / "out.jsonl", asked.pool, fingerprint(asked.pool), None, 0, explain=True)
    assembly = asked.assembly()
    run_batch(job, assembly, MemoryStore(), False, UNWATCHED)
    assembly.close()
    traces: dict[str, list[Told]] = {}
    for trace in read_jsonl(job.trace):
        traces.setdefault(trace["query_id"].split("\x1f")[0], []).append(trace)
    rows = read_jsonl(job.output)
    return [
        told(row["response"]["status_code"], row["response"]["body"], traces.get(row["custom_id"], [])) for row in rows
    ]


EMBEDDED = 0.01
"""Allowed between numbers, as a part of those above 1, such as weights of votes: in 16 bits the last digits of
similarities depend on the texts embedded with a question."""


def differences(given: Any, wanted: Any, apart: float, path: str = "") -> Iterator[str]:
    """Where two results differ, and how; numbers may be so far `apart`, those above 1 by such a part of them."""
    if isinstance(given, float) and isinstance(wanted, float) and abs(given - wanted) <= apart * max(1.0, abs(wanted)):
        return
    if isinstance(given, dict) and isinstance(wanted, dict) and given.keys() == wanted.keys():
        for name in wanted:
            yield from differences(given[name], wanted[name], apart, f"{path}.{name}")
    elif isinstance(given, list) and isinstance(wanted, list) and len(given) == len(wanted):
        for place, pair in enumerate(zip(given, wanted, strict=True)):
            yield from differences(*pair, apart, f"{path}[{place}]")
    elif given != wanted:
        yield f"{path}: {given!r} in place of {wanted!r}"


def assert_equal(asked: Asked, given: list[Told], wanted: list[Told]) -> None:
    """Equal as they are; with a real embedder but for what its arithmetic moves."""
    assert list(differences(given, wanted, EMBEDDED if asked.engine is None else 0.0)) == []


def test_a_batch_of_the_service_gives_what_the_command_gives(
    served: Running, asked: Asked, by_command: list[Told]
) -> None:
    client, lines = served.openai, asked.lines()
    over = ended(client, start(client, lines), 600)
    rows = [*rows_of(client, over.output_file_id), *rows_of(client, over.error_file_id)]
    given = {row["custom_id"]: told(row["response"]["status_code"], row["response"]["body"]) for row in rows}
    assert_equal(asked, [given[line["custom_id"]] for line in lines], by_command)


def test_whole_answers_are_what_the_command_gives(served: Running, asked: Asked, by_command: list[Told]) -> None:
    def ask(body: Body) -> Told:
        response = served.post(json=body)
        return told(response.status_code, response.json())

    with ThreadPoolExecutor(8) as threads:
        assert_equal(asked, list(threads.map(ask, asked.bodies())), by_command)


def test_streamed_answers_are_what_the_command_gives(served: Running, asked: Asked, by_command: list[Told]) -> None:
    def ask(body: Body) -> Told:
        response = served.post(json=body | {"stream": True, "stream_options": {"include_usage": True}})
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
        assert_equal(asked, list(threads.map(ask, asked.bodies())), by_command)


def test_the_questions_go_every_way_and_fail_in_every_way(by_command: list[Told]) -> None:
    ways = {trace["way"] for each in by_command for trace in each.get("traces", ())}
    assert ways == {"named", "single", "aggregated"}
    assert {each["code"] for each in by_command if "code" in each} == {
        "model_not_found",
        "context_length_exceeded",
        "invalid_value",
    }
