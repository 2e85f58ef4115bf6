"""Every door beside chat completions, asked as its own clients do; the answers come the same way."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from symmoe.deployments.access.cache import KeptResponses
from symmoe.deployments.access.keys import Caller
from symmoe.deployments.settings import Settings

import symmoe
from symmoe import limits
from symmoe.errors import StoreError
from symmoe.types import Generation
from symmoe.wire.answers import AnswerFacts
from symmoe.wire.responses import ResponseRequest, ResponseWriter
from tests.deployments.api.conftest import Running, running
from tests.deployments.api.test_refusals import error_of

pytestmark = pytest.mark.usefixtures("state")
MESSAGES = {"model": "adder", "max_tokens": 9, "messages": [{"role": "user", "content": "sums of 1"}]}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, Settings(cache_seconds=60)) as served:
        yield served


def events(text: str) -> list[dict[str, Any]]:
    """The documents of a stream, each of the type that its name says."""
    found = []
    for part in text.strip().split("\n\n"):
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


# --- completions -----------------------------------------------------------------------------------------------------


def test_a_completion_goes_on_with_its_prompt_whole_and_streamed(served: Running) -> None:
    served.engine.asked.clear()
    options = {"model": "adder", "prompt": ["sums of 1"], "logprobs": 2, "max_tokens": 7}
    whole = served.openai.completions.create(**options)  # type: ignore[call-overload]
    (choice,) = whole.choices
    assert (whole.object, choice.text, choice.finish_reason) == ("text_completion", "adder: sums of 1", "stop")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == [0, 6, 11, 14]
    assert choice.logprobs.top_logprobs[0] == {"adder:0": -6.0, "adder:1": -7.0}
    assert whole.usage.completion_tokens == 4
    sampling = served.engine.asked[0].sampling
    assert (sampling.raw, sampling.max_tokens, sampling.top_logprobs) == (True, 7, 2)
    told = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = list(served.openai.completions.create(**options, **told))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    offsets = [o for chunk in chunks if chunk.choices[0].logprobs for o in chunk.choices[0].logprobs.text_offset]
    assert offsets == choice.logprobs.text_offset
    assert (last.choices, last.usage) == ([], whole.usage)


def test_an_echo_stands_before_the_text(served: Running) -> None:
    body = {"model": "adder", "prompt": "sums", "echo": True, "n": 2}
    assert [c["text"] for c in served.post("/v1/completions", json=body).json()["choices"]] == ["sumsadder: sums"] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_gone_on_with_side_by_side(served: Running, stream: bool) -> None:
    body = {"model": "adder", "prompt": ["sums", "of 1 and 2"], "n": 2, "echo": True, "stream": stream}
    if stream:
        said = [""] * 4
        for chunk in served.openai.completions.create(**body):  # type: ignore[call-overload]
            said[chunk.choices[0].index] += chunk.choices[0].text
    else:
        whole = served.post("/v1/completions", json=body).json()
        said = [choice["text"] for choice in whole["choices"]]
        assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert said == ["sumsadder: sums"] * 2 + ["of 1 and 2adder: of 1 and 2"] * 2


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a", " "]}, None),
        ({"prompt": " "}, None),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 5}, "n"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
    ],
)
def test_what_a_completion_cannot_have_is_named(served: Running, wrong: dict[str, Any], param: str | None) -> None:
    body = {"model": "adder", "prompt": "sums", **wrong}
    assert error_of(served.post("/v1/completions", json=body))["param"] == param


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_pool_s_embedder_in_either_encoding(served: Running) -> None:
    texts = [f"text {n}" for n in range(20)]
    found = served.openai.embeddings.create(model="symmoe/embedder", input=texts)  # asks for base64 by itself
    vectors = np.array([each.embedding for each in found.data])
    assert vectors.shape == (20, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert found.usage.prompt_tokens == 40
    body = {"model": "symmoe/embedder", "input": texts[3]}
    (plain,) = served.post("/v1/embeddings", json=body).json()["data"]
    assert np.allclose(plain["embedding"], vectors[3])
    (raw,) = served.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"]
    assert np.frombuffer(base64.b64decode(raw["embedding"]), "<f4").shape == (16,)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [""]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * 40_000}, "input"),
        ({"dimensions": 8}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_named(served: Running, wrong: dict[str, Any], param: str) -> None:
    assert error_of(served.post("/v1/embeddings", json={"input": "a", **wrong}))["param"] == param
    assert error_of(served.post("/v1/embeddings", json={"model": "adder", "input": "a"}), 404)["param"] == "model"


# --- Anthropic's messages --------------------------------------------------------------------------------------------


def test_a_message_is_answered_as_anthropic_has_it(served: Running) -> None:
    served.engine.asked.clear()
    blocks = [
        {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    body = {**MESSAGES, "system": blocks, "stop_sequences": ["x"], "top_k": 3, "metadata": {"user_id": "me"}}
    response = served.post("/v1/messages", json=body)
    said = response.json()
    assert said["content"] == [{"type": "text", "text": "adder: sums of 1"}]
    assert (said["type"], said["role"], said["model"]) == ("message", "assistant", "adder")
    assert (said["stop_reason"], said["stop_sequence"]) == ("end_turn", None)
    assert (said["usage"]["input_tokens"], said["usage"]["output_tokens"]) == (3, 4)
    assert response.headers["x-symmoe-ignored"] == "metadata,system.cache_control"
    query = served.engine.asked[0]
    assert [(m.role, m.content) for m in query.messages] == [("system", "Be brief."), ("user", "sums of 1")]
    assert (query.sampling.stop, query.sampling.top_k, query.sampling.max_tokens) == (("x",), 3, 9)


@pytest.mark.parametrize("model", ["adder", "symmoe/best"])
def test_a_message_is_streamed_in_anthropic_s_order(served: Running, model: str) -> None:
    found = events(served.post("/v1/messages", json={**MESSAGES, "model": model, "stream": True}).text)
    start, opened, *deltas, closed, delta, stop = found
    assert start["message"]["content"] == []
    assert (opened["type"], closed["type"], stop["type"]) == (
        "content_block_start",
        "content_block_stop",
        "message_stop",
    )
    assert "".join(each["delta"]["text"] for each in deltas) == "adder: sums of 1"
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] > 0


@pytest.mark.parametrize(
    ("wrong", "status", "kind"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"model": "nobody"}, 404, "not_found_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "sums " * 100}]}, 400, "invalid_request_error"),
        ({"model": "broken"}, 503, "overloaded_error"),
    ],
)
def test_errors_of_messages_are_anthropic_s(served: Running, wrong: dict[str, Any], status: int, kind: str) -> None:
    response = served.post("/v1/messages", json={**MESSAGES, **wrong})
    assert (response.status_code, response.json()["type"]) == (status, "error")
    assert response.json()["error"]["type"] == kind
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_tokens_of_a_conversation_are_counted(served: Running) -> None:
    body = {"model": "adder", "system": "Be brief.", "messages": MESSAGES["messages"]}
    assert served.post("/v1/messages/count_tokens", json=body).json() == {"input_tokens": 5}


# --- responses -------------------------------------------------------------------------------------------------------


def test_a_response_goes_on_from_an_earlier_one(kept: Running) -> None:
    first = kept.openai.responses.create(model="adder", input="sums of 1", instructions="Be brief.", temperature=0)
    assert (first.output_text, first.status) == ("adder: sums of 1", "completed")
    assert first.usage is not None
    assert first.usage.total_tokens == 7
    kept.engine.asked.clear()
    second = kept.openai.responses.create(model="adder", input="and 2", previous_response_id=first.id)
    assert [(m.role, m.content) for m in kept.engine.asked[0].messages] == [
        ("user", "sums of 1"),
        ("assistant", "adder: sums of 1"),
        ("user", "and 2"),
    ]
    assert kept.openai.responses.retrieve(second.id).output_text == "adder: and 2"
    kept.openai.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        kept.openai.responses.retrieve(second.id)
    again = kept.openai.responses.create(model="adder", input="sums of 1", instructions="Be brief.", temperature=0)
    assert again.id != first.id  # given again from the cache, and kept as its own
    assert kept.openai.responses.retrieve(again.id).output_text == first.output_text


@pytest.mark.parametrize("model", ["adder", "symmoe/best"])
def test_a_response_is_streamed_in_openai_s_order(kept: Running, model: str) -> None:
    stream = list(kept.openai.responses.create(model=model, input="sums of 1", stream=True))
    assert [event.sequence_number for event in stream] == list(range(len(stream)))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in stream))
    assert (
        kinds
        == (
            "created in_progress output_item.added content_part.added output_text.delta output_text.done "
            "content_part.done output_item.done completed"
        ).split()
    )
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == stream[-1].response.output_text == "adder: sums of 1"  # type: ignore[union-attr]
    found = kept.openai.responses.retrieve(stream[-1].response.id)  # type: ignore[union-attr]
    assert found.output_text == text


def test_a_response_says_what_its_text_must_follow(kept: Running) -> None:
    form = {"type": "json_schema", "name": "own", "schema": {"type": "object"}, "strict": True}
    kept.openai.responses.create(model="adder", input="x", text={"format": form})  # type: ignore[arg-type]
    assert kept.engine.asked[-1].sampling.schema == '{"type": "object"}'


def test_what_is_not_to_be_stored_is_not(kept: Running) -> None:
    said = kept.openai.responses.create(model="adder", input="x", store=False)
    with pytest.raises(openai.NotFoundError, match="not stored"):
        kept.openai.responses.create(model="adder", input="y", previous_response_id=said.id)
    assert error_of(kept.post("/v1/responses", json={"model": "adder", "input": "x", "background": True}))


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_response_that_was_cut_or_filtered_is_incomplete(reason: str, told: str) -> None:
    writer = ResponseWriter("0", ResponseRequest(input="x"))
    whole = writer.whole({0: Generation("So far", reason, 1, 2)}, AnswerFacts(1, 2))
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": told})
    assert whole["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_store_does_not_take_is_given_all_the_same(
    kept: Running, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise StoreError("the store does not answer")

    monkeypatch.setattr(KeptResponses, "keep", away)
    response = kept.post("/v1/responses", json={"model": "adder", "input": "sums", "stream": stream})
    assert response.status_code == 200
    told = events(response.text)[-1]["response"] if stream else response.json()
    assert (told["status"], told["store"]) == ("completed", False)
    assert told["output"][0]["content"][0]["text"] == "adder: sums"


def test_the_oldest_responses_of_a_key_give_way(kept: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from symmoe.deployments.access import cache

    monkeypatch.setattr(cache, "RESPONSES_OF_KEY", 3)
    made = [kept.openai.responses.create(model="adder", input=f"number {n}").id for n in range(5)]

    def there() -> list[int]:
        return [kept.get(f"/v1/responses/{ident}").status_code for ident in made]

    assert there() == [404, 404, 200, 200, 200]
    monkeypatch.setattr(cache, "RESPONSES_BYTES_OF_KEY", 2500)  # two of some thousand bytes
    made.append(kept.openai.responses.create(model="adder", input="one more").id)
    assert there() == [404, 404, 404, 404, 200, 200]
    assert limits.RESPONSE_BYTES <= limits.RESPONSES_BYTES_OF_KEY


class TwoKeys:
    """Two callers by their keys, and nobody else."""

    required = True

    async def caller(self, key: str | None) -> Caller | None:
        return await self.named(key or "")

    async def named(self, ident: str) -> Caller | None:
        return Caller(ident) if ident in ("mine", "yours") else None


def test_keys_come_in_either_header_and_nobody_sees_another_s_responses(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), TwoKeys()) as served:
        mine, yours = {"x-api-key": "mine"}, {"authorization": "Bearer yours"}
        body = {"model": "adder", "input": "x"}
        ident = served.post("/v1/responses", json=body, headers=mine).json()["id"]
        assert served.get(f"/v1/responses/{ident}", headers=mine).status_code == 200
        assert served.get(f"/v1/responses/{ident}", headers=yours).status_code == 404
        assert served.delete(f"/v1/responses/{ident}", headers=yours).status_code == 404
        going_on = {**body, "previous_response_id": ident}
        assert error_of(served.post("/v1/responses", json=going_on, headers=yours), 404)
        refused = served.post("/v1/messages", json=MESSAGES)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        for path in ("/version", "/docs", "/openapi.json"):
            assert served.get(path).status_code == 200


# --- what stands beside them -----------------------------------------------------------------------------------------


def test_paths_are_the_same_with_a_slash_and_head_is_get_without_a_body(served: Running) -> None:
    assert served.get("/v1/models/").json() == served.get("/v1/models").json()
    assert served.get("/version").json() == {"version": symmoe.__version__}
    for path in ("/health", "/v1/models", "/version", "/docs"):
        asked, head = served.get(path), served.send("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == asked.headers["content-type"]
    assert served.send("HEAD", "/v1/nothing").status_code == 404


def test_options_tell_what_a_path_takes(served: Running) -> None:
    assert served.send("OPTIONS", "/v1/batches").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert served.send("OPTIONS", "/v1/chat/completions").status_code == 204
    assert served.send("OPTIONS", "/v1/nothing").status_code == 404


def test_the_page_of_paths_loads_nothing(served: Running) -> None:
    page = served.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "src=" not in page.text
    for path in served.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page.text


def test_pages_of_named_sites_may_ask_and_no_others(tmp_path: Path) -> None:
    with running(tmp_path, Settings(origins=("https://app.example",))) as served:
        own, other = {"origin": "https://app.example"}, {"origin": "https://evil.example"}
        wish = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        before = served.send("OPTIONS", "/v1/chat/completions", headers={**own, **wish})
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, "https://app.example")
        assert (
            "access-control-allow-origin" not in served.send("OPTIONS", "/v1/models", headers={**other, **wish}).headers
        )
        assert served.get("/v1/models", headers=own).headers["access-control-allow-origin"] == "https://app.example"
        assert served.get("/v1/models", headers=other).status_code == 403
        form = {"file": ("a.jsonl", b"{}"), "purpose": (None, "batch")}
        assert served.post("/v1/files", files=form, headers=other).status_code == 403
        assert served.post("/v1/files", files=form, headers=own).status_code == 200
