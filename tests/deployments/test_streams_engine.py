"""Streams of a real engine as OpenAI's clients read them, who leaves one, and lines of a batch that give way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from symmoe.deployments.settings import Settings
from symmoe.deployments.watching import Samples

from symmoe.config import EngineConfig, Pool, cache_dir, read_pool, shipped_pool
from tests.deployments.api.conftest import PATIENCE, Running, running, until
from tests.deployments.batches.conftest import ended, line, rows_of, start
from tests.stores import state_in

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SEA = "Tell me about the sea."
MANY_BYTES = "🌊🐚 naïve 日本語 Ω👩‍👩‍👧"


def small() -> Pool:
    """The tiny pool on an engine that answers two at once."""
    pool = read_pool(str(shipped_pool("tiny")))
    engine = EngineConfig(kind="vllm", max_model_len=1024, max_num_seqs=2, kv_cache_gib=0.3)
    return pool.model_copy(update={"engine": engine})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, cache = tmp_path_factory.mktemp("streams"), cache_dir()
    settings = Settings(longest_wait=600.0, deadline=600.0, stall=600.0)  # a busy machine is slow
    with state_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMMOE_CACHE", str(cache))  # where the weights are unpacked already
        with running(folder, settings, first="generalist", pool=small(), real=True) as made:
            assert made.replica.loop.warm.wait(2 * PATIENCE), made.replica.loop.trouble
            yield made


def body(text: str = SEA, **more: Any) -> dict[str, Any]:
    return {"model": "generalist", "messages": [{"role": "user", "content": text}], "max_tokens": 24, **more}


def chunks(served: Running, **more: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, after which it says that it is done, and nothing more."""
    *parts, last, rest = served.post(json=body(stream=True, **more)).text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def spoken(found: list[dict[str, Any]], number: int = 0) -> str:
    own = [choice for chunk in found for choice in chunk["choices"] if choice["index"] == number]
    return "".join(choice["delta"].get("content") or "" for choice in own)


def test_a_stream_is_in_openai_s_order(served: Running) -> None:
    found = chunks(served, stream_options={"include_usage": True})
    first, *middle, end, usage = found
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(list(chunk["choices"][0]["delta"]) == ["content"] for chunk in middle)
    assert [chunk["choices"][0]["finish_reason"] for chunk in (first, *middle, end)] == [None] * (len(found) - 2) + [
        "length"
    ]
    assert end["choices"][0]["delta"] == {}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 24)
    assert all(chunk["usage"] is None for chunk in (first, *middle, end))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in found}) == 1
    assert len(middle) > 5
    whole = served.post(json=body()).json()
    assert spoken(found) == whole["choices"][0]["message"]["content"]
    assert usage["usage"] == whole["usage"]


def test_several_choices_are_streamed_side_by_side(served: Running) -> None:
    found = chunks(served, n=3, temperature=0.9, seed=5)
    for number in range(3):
        own = [choice for chunk in found for choice in chunk["choices"] if choice["index"] == number]
        assert [choice["delta"].get("role") for choice in own] == ["assistant"] + [None] * (len(own) - 1)
        assert [bool(choice["finish_reason"]) for choice in own] == [False] * (len(own) - 1) + [True]
    whole = served.post(json=body(n=3, temperature=0.9, seed=5)).json()
    assert len({spoken(found, number) for number in range(3)}) == 3
    assert sorted(spoken(found, n) for n in range(3)) == sorted(c["message"]["content"] for c in whole["choices"])


def test_characters_of_several_tokens_come_whole(served: Running) -> None:
    found = chunks(served, structured_outputs={"choice": [MANY_BYTES]}, max_tokens=96, logprobs=True)
    parts = [choice for chunk in found for choice in chunk["choices"]]
    assert "".join(part["delta"].get("content") or "" for part in parts) == MANY_BYTES
    assert not any("\ufffd" in (part["delta"].get("content") or "") for part in parts)
    tokens = [told for part in parts for told in (part["logprobs"] or {}).get("content", ())]
    assert len(tokens) > len(MANY_BYTES)  # it was of more tokens than characters


def test_who_leaves_in_mid_stream_leaves_nothing_running(served: Running) -> None:
    options: Any = {"json": body(stream=True, max_tokens=900, ignore_eos=True), "timeout": PATIENCE}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", **options) as response:
        assert sum('"content":"' in each for each, _ in zip(response.iter_lines(), range(20), strict=False)) > 2
    served.until('symmoe_running{expert="generalist"}', 0)
    served.until("symmoe_open_requests", 0)
    assert served.post(json=body()).status_code == 200


def test_a_line_that_runs_gives_way_to_an_online_request_and_is_answered_all_the_same(served: Running) -> None:
    long = {"max_tokens": 400, "ignore_eos": True}
    batch = start(served.openai, [line(n, body=body("Count to a thousand.", **long)) for n in range(2)])
    served.until('symmoe_running{expert="generalist"}', 2)
    assert served.post(json=body(max_tokens=2)).status_code == 200
    counts = served.openai.batches.retrieve(batch.id).request_counts
    assert counts is not None
    assert (counts.total, counts.completed) == (2, 0)
    rows = rows_of(served.openai, ended(served.openai, batch).output_file_id)
    assert [row["response"]["body"]["usage"]["completion_tokens"] for row in rows] == [400] * 2


def test_the_page_of_metrics_has_what_vllm_counts_of_the_engine(served: Running) -> None:
    def found(name: str) -> float:
        return Samples(served.get("/metrics").text).sum(f"vllm:{name}", model_name="generalist")

    def asked() -> int:
        """How many tokens one more answer has, once the page has as many requests as there were."""
        before = found("time_to_first_token_seconds_count")
        tokens: int = served.post(json=body()).json()["usage"]["completion_tokens"]
        until(lambda: found("time_to_first_token_seconds_count") == before + 1)
        return tokens

    asked()
    before = found("generation_tokens_total")
    tokens = asked()
    assert found("generation_tokens_total") == before + tokens
    assert found("kv_cache_usage_perc") == 0
