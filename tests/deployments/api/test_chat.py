"""The official client against the service."""

from __future__ import annotations

import json

import openai
import pytest

from tests.deployments.api.conftest import EXPERTS, Running


def ask(served: Running, model: str, text: str, **options: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    return served.openai.chat.completions.create(model=model, messages=messages, **options)  # type: ignore[call-overload]


def texts(answer: openai.types.chat.ChatCompletion) -> list[str | None]:
    return [choice.message.content for choice in answer.choices]


def test_auto_asks_the_expert_that_the_question_calls_for(served: Running) -> None:
    answer = ask(served, "symmoe/auto", "spanish five")
    assert texts(answer) == ["speaker: spanish five"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "symmoe/auto"


@pytest.mark.parametrize("model", ["adder", "sorter"])
def test_a_named_expert_answers_whatever_the_question_calls_for(served: Running, model: str) -> None:
    assert texts(ask(served, model, "spanish five")) == [f"{model}: spanish five"]


def test_usage_adds_up_what_every_expert_took(served: Running) -> None:
    one = ask(served, "symmoe/fast", "spanish and sorting").usage
    many = ask(served, "symmoe/best", "spanish and sorting", extra_body={"symmoe": {"explain": True}})
    assert one is not None
    assert many.usage is not None
    asked = many.symmoe["generations"]  # type: ignore[attr-defined]
    assert len(asked) == 3
    assert many.usage.total_tokens == 3 * one.total_tokens
    assert sum(each["completion_tokens"] for each in asked) == many.usage.completion_tokens


def test_a_stream_adds_up_to_the_whole_answer_and_ends_with_usage(served: Running) -> None:
    messages = [{"role": "user", "content": "sums of 1 2 3"}]
    options = {"include_usage": True}
    stream = served.openai.chat.completions.create(
        model="adder",
        messages=messages,
        stream=True,
        stream_options=options,  # type: ignore[call-overload]
    )
    chunks = list(stream)
    whole = ask(served, "adder", "sums of 1 2 3")
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == texts(whole)[0]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_an_aggregated_answer_is_streamed_when_it_is_there(served: Running) -> None:
    messages = [{"role": "user", "content": "sums of 1 2 3"}]
    stream = served.openai.chat.completions.create(model="symmoe/best", messages=messages, stream=True)  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "adder: sums of 1 2 3"


@pytest.mark.parametrize("stream", [False, True])
def test_each_of_n_choices_is_drawn_by_itself_and_a_greedy_one_only_once(served: Running, stream: bool) -> None:
    served.engine.asked.clear()
    body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}], "n": 3, "stream": stream, "seed": 7}
    drawn = served.post(json={**body, "temperature": 1.0})
    assert sorted(q.sampling.seed or 0 for q in served.engine.asked) == [7, 8, 9]
    served.engine.asked.clear()
    greedy = served.post(json={**body, "temperature": 0.0})
    assert len(served.engine.asked) == 1
    for response in (drawn, greedy):
        if stream:
            events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
            said = dict.fromkeys(range(3), "")
            for choice in (choice for event in events for choice in event["choices"]):
                said[choice["index"]] += choice["delta"].get("content", "")
            assert said == dict.fromkeys(range(3), "adder: sums")
        else:
            assert [c["message"]["content"] for c in response.json()["choices"]] == ["adder: sums"] * 3


def test_sampling_reaches_the_engine_and_draws_without_a_seed_differ(served: Running) -> None:
    served.engine.asked.clear()
    ask(served, "adder", "sums", max_tokens=5, temperature=0.5, top_p=0.9, stop=["x", "y"], seed=-1)
    ask(served, "adder", "sums", max_completion_tokens=6, temperature=0.5, stop="z")
    ask(served, "adder", "sums", temperature=0.5)
    first, second, third = (query.sampling for query in served.engine.asked)
    assert (first.max_tokens, first.temperature, first.top_p, first.stop) == (5, 0.5, 0.9, ("x", "y"))
    assert first.seed is not None
    assert first.seed >= 0
    assert (second.max_tokens, second.stop) == (6, ("z",))
    assert third.max_tokens == 16
    assert second.seed != third.seed


def test_every_sampling_parameter_reaches_the_engine(served: Running) -> None:
    served.engine.asked.clear()
    same = {
        "top_k": 7,
        "min_p": 0.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.2,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    more = {"stop_token_ids": [5, 6], "logit_bias": {"9": -1, "2": 1.5}, "chat_template_kwargs": {"b": 1, "a": [2]}}
    body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}], **same, **more}
    response = served.post(json=body)
    assert response.status_code == 200, response.text
    assert "x-symmoe-ignored" not in response.headers
    sampling = served.engine.asked[0].sampling
    assert {name: getattr(sampling, name) for name in same} == same
    assert (sampling.stop_token_ids, sampling.logit_bias) == ((5, 6), ((2, 1.5), (9, -1.0)))
    assert sampling.template == '{"a": [2], "b": 1}'


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ({"structured_outputs": {"json": {"type": "object"}}}, ('{"type": "object"}', "json")),
        ({"guided_json": '{"type": "object"}'}, ('{"type": "object"}', "json")),
        ({"structured_outputs": {"json_object": True}}, ('{"type": "object"}', "json")),
        ({"guided_regex": "[ab]+"}, ("[ab]+", "regex")),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, ('root ::= "a"', "ebnf")),
        ({"guided_choice": ["yes", 'n"o']}, ('root ::= "yes" | "n\\"o"', "ebnf")),
    ],
)
def test_what_an_answer_must_follow_may_be_said_in_vllm_s_words(
    served: Running, asked: dict[str, object], held: tuple[str, str]
) -> None:
    served.engine.asked.clear()
    ask(served, "adder", "sums", extra_body=asked)
    assert (served.engine.asked[0].sampling.schema, served.engine.asked[0].sampling.form) == held


@pytest.mark.parametrize("model", ["adder", "symmoe/best"])
def test_log_probabilities_are_those_of_the_answer_whole_and_streamed(served: Running, model: str) -> None:
    whole = ask(served, model, "sums of 1", logprobs=True, top_logprobs=2).choices[0]
    assert whole.logprobs is not None
    tokens = whole.logprobs.content or []
    assert "".join(token.token for token in tokens) == whole.message.content == "adder: sums of 1"
    assert [token.logprob for token in tokens] == [-6.0, -5.0, -3.0, -2.0]
    assert [(top.token, top.logprob) for top in tokens[0].top_logprobs] == [("adder:0", -6.0), ("adder:1", -7.0)]
    assert tokens[0].bytes == list(b"adder:")
    messages = [{"role": "user", "content": "sums of 1"}]
    stream = served.openai.chat.completions.create(  # type: ignore[call-overload]
        model=model, messages=messages, logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [choice.logprobs for chunk in stream for choice in chunk.choices if choice.logprobs]
    assert [token for each in streamed for token in each.content] == tokens
    assert ask(served, model, "sums of 1").choices[0].logprobs is None


def test_parts_of_text_are_joined_and_a_developer_is_the_system(served: Running) -> None:
    served.engine.asked.clear()
    parts = [{"type": "text", "text": "sums "}, {"type": "text", "text": "please"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    served.openai.chat.completions.create(model="adder", messages=messages)  # type: ignore[call-overload]
    assert [(m.role, m.content) for m in served.engine.asked[0].messages] == [
        ("system", "Be brief."),
        ("user", "sums please"),
    ]


def test_headers_tell_how_the_answer_came_about_and_the_request_keeps_its_name(served: Running) -> None:
    body = {"model": "symmoe/best", "messages": [{"role": "user", "content": "sums and spanish"}]}
    headers = served.post(json=body, headers={"x-request-id": "mine-1"}).headers
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-symmoe-path"] == "aggregated"
    assert set(headers["x-symmoe-experts"].split(",")) <= set(EXPERTS)
    assert headers["x-symmoe-skills"] == "sums,spanish"
    assert float(headers["x-symmoe-total-ms"]) >= float(headers["x-symmoe-route-ms"]) > 0
    forged = served.post(json=body, headers={"x-request-id": "a b<script>"}).headers
    assert forged["x-request-id"] != "a b<script>"


def test_a_stream_that_streams_tells_the_time_of_its_first_token(served: Running) -> None:
    body = {"model": "symmoe/fast", "messages": [{"role": "user", "content": "sums"}], "stream": True}
    headers = served.post(json=body).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-symmoe-path"] == "single"
    assert float(headers["x-symmoe-first-token-ms"]) > 0


@pytest.mark.parametrize(
    ("options", "path", "asked"),
    [
        ({}, "aggregated", 2),
        ({"k": 1}, "single", 1),
        ({"aggregate": "never"}, "single", 1),
        ({"aggregate": "always"}, "aggregated", 2),
    ],
)
def test_a_request_may_choose_how_experts_are_asked(
    served: Running, options: dict[str, object], path: str, asked: int
) -> None:
    body = {"model": "symmoe/auto", "messages": [{"role": "user", "content": "spanish sorting"}]}
    response = served.post(json={**body, "symmoe": {**options, "explain": True}}).json()
    assert response["symmoe"]["path"] == path
    assert len(response["symmoe"]["asked"]) == asked
    assert response["symmoe"]["explanation"]["recruiter"] == "symmoe"


def test_an_expert_that_fails_has_no_say_and_the_others_answer(served: Running) -> None:
    body = {"model": "symmoe/best", "messages": [{"role": "user", "content": "sums"}]}
    response = served.post(json={**body, "symmoe": {"k": 4, "explain": True}}).json()
    assert "broken" in response["symmoe"]["asked"]
    assert response["choices"][0]["message"]["content"] == "adder: sums"


def test_route_says_who_would_answer_and_generates_nothing(served: Running) -> None:
    served.engine.asked.clear()
    body = {"model": "symmoe/auto", "messages": [{"role": "user", "content": "spanish"}]}
    routed = served.post("/v1/route", json=body).json()
    assert routed["asked"] == ["speaker"]
    assert routed["skills"] == [{"skill": "spanish", "similarity": 1.0}]
    assert sum(routed["shares"].values()) == pytest.approx(1.0)
    assert served.engine.asked == []
    assert served.post("/v1/route", json={**body, "model": "adder"}).status_code == 400


def test_models_are_the_virtual_ones_and_every_expert_with_the_base_of_its_adapter(served: Running) -> None:
    models = {model.id: model for model in served.openai.models.list()}
    assert list(models) == ["symmoe/auto", "symmoe/fast", "symmoe/best", *EXPERTS]
    assert models["adder"].parent == "org/base"  # type: ignore[attr-defined]
    assert served.openai.models.retrieve("symmoe/auto").id == "symmoe/auto"
    with pytest.raises(openai.NotFoundError):
        served.openai.models.retrieve("nobody")
