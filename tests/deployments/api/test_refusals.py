"""What is wrong with a request is said in OpenAI's envelope, and never with a 5xx."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running

USER = {"role": "user", "content": "sums"}
BODY = {"model": "adder", "messages": [USER]}
TOOL = {"type": "function", "function": {"name": "a"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def error_of(response: httpx.Response, status: int = 400) -> dict[str, object]:
    """The envelope, checked for its shape."""
    assert response.status_code == status, response.text
    document = response.json()
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    error: dict[str, object] = document["error"]
    return error


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "sums"}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "  "}]}, None),
        ({"model": 7}, "model"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [TOOL]}, "tools"),  # no expert of this pool takes them
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice"),
        ({"messages": [{"role": "assistant", "content": None}, USER]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"min_p": 2}, "min_p"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"chat_template_kwargs": {"chat_template": "{{ 7 }}"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 5000}}, "chat_template_kwargs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"lark": "a"}}, "structured_outputs.lark"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"symmoe": {"k": 0}}, "symmoe.k"),
        ({"symmoe": {"kk": 1}}, "symmoe.kk"),
        ({"symmoe": {"aggregate": "maybe"}}, "symmoe.aggregate"),
        ({"symmoe": {"deadline": 0}}, "symmoe.deadline"),
    ],
)
def test_a_wrong_field_is_named(served: Running, wrong: dict[str, object], param: str | None) -> None:
    assert error_of(served.post(json={**BODY, **wrong}))["param"] == param


def test_what_asks_for_nothing_special_is_let_pass(served: Running) -> None:
    harmless = {
        "response_format": {"type": "text"},
        "tools": [],
        "logprobs": False,
        "logit_bias": {},
        "store": False,
        "service_tier": "auto",
        "user": "me",
        "metadata": {"a": "b"},
        "stop": None,
        "n": None,
        "max_tokens": None,
    }
    response = served.post(json={**BODY, **harmless})
    assert response.status_code == 200
    assert response.headers.get("x-symmoe-ignored") == "metadata"


IDLE = {"store": True, "verbosity": "low", "reasoning_effort": "high", "max_token": 5, "töken\n": 1}


def test_what_has_no_effect_is_named_in_a_header(served: Running) -> None:
    message = {**USER, "annotations": ["a"], "refusal": None}
    response = served.post(json={**BODY, **IDLE, "messages": [message]})
    assert response.status_code == 200, response.text
    named = response.headers["x-symmoe-ignored"].split(",")
    assert named == ["store", "verbosity", "reasoning_effort", "max_token", "t%C3%B6ken%0A", "messages.annotations"]
    many = served.post(json={**BODY, **{f"field{n}": 1 for n in range(1000)}})
    assert many.headers["x-symmoe-ignored"].endswith(",field15,(+984)")


def test_a_strict_service_refuses_what_has_no_effect(tmp_path: Path) -> None:
    with running(tmp_path, Settings(strict=True)) as strict:
        for name, value in IDLE.items():
            assert error_of(strict.post(json={**BODY, name: value}))["param"] == name
        assert strict.post(json={**BODY, "metadata": {"a": "b"}, "store": False}).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "adder", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "adder", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"metadata": ' + b"[" * 100_000,
        b'{"metadata": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_or_too_deep_is_a_bad_request(served: Running, raw: bytes) -> None:
    error_of(served.post(content=raw, headers={"content-type": "application/json"}))


def test_a_body_over_the_bound_is_refused_and_never_held(served: Running) -> None:
    headers = {"content-type": "application/json"}
    before = psutil.Process().memory_info().rss
    endless = served.post(content=(b" " * (1 << 16) for _ in range(2000)), headers=headers)
    assert error_of(endless, 413)["code"] == "request_too_large"
    assert error_of(served.post(content=b" " * (2 << 20), headers=headers), 413)
    assert psutil.Process().memory_info().rss - before < 48 << 20


def test_a_body_that_a_web_page_could_send_unasked_is_refused(served: Running) -> None:
    plain = served.post(content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert error_of(plain, 415)["code"] == "unsupported_media_type"


def test_an_unknown_model_path_or_method_is_said_in_the_envelope(served: Running) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        served.openai.chat.completions.create(model="nobody", messages=[USER])  # type: ignore[list-item]
    assert raised.value.code == "model_not_found"
    assert error_of(served.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(served.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
    assert "allow" in served.get("/v1/chat/completions").headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fills_the_window_is_a_bad_request_streamed_or_not(served: Running, stream: bool) -> None:
    long = {"role": "user", "content": "sums " * 100}
    body = {"model": "adder", "messages": [long], "stream": stream}
    assert error_of(served.post(json=body))["code"] == "context_length_exceeded"
    assert error_of(served.post(json={**body, "model": "symmoe/best"}))["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_an_expert_that_cannot_be_made_ready_is_said_to_be_unavailable_and_others_go_on(
    served: Running, stream: bool
) -> None:
    error = error_of(served.post(json={**BODY, "model": "broken", "stream": stream}), 503)
    assert error["code"] == "expert_unavailable"
    assert "weights are broken" in str(error["message"])
    assert served.post(json=BODY).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "model messages stream stream_options n stop max_tokens max_completion_tokens temperature top_p seed "
    "response_format logit_bias logprobs top_logprobs top_k min_p stop_token_ids structured_outputs guided_choice "
    "chat_template_kwargs tools tool_choice user metadata symmoe"
).split()


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.booleans())
def test_no_json_gives_a_5xx(served: Running, changed: dict[str, object], valid: bool) -> None:
    body = {**BODY, **changed} if valid else changed
    content = json.dumps(body)
    response = served.post(content=content.encode("utf-8", "replace"), headers={"content-type": "application/json"})
    assert response.status_code < 500, (content, response.text)
    if response.status_code != 200:
        error_of(response, response.status_code)


def test_a_connection_closed_in_the_middle_of_a_request_leaves_nothing_open(own: Running) -> None:
    host, port = own.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        half.sendall(b"content-length: 1000\r\n\r\n{")
        own.until("symmoe_open_requests", 1.0)
    own.until("symmoe_open_requests", 0.0)
