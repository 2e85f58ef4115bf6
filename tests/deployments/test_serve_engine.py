"""`symmoe serve` with the starter pool on vLLM, as a newcomer would start it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import openai
import pytest

from symmoe.profiles.marking import is_right
from symmoe.questions.suites import mixed_suite
from symmoe.types import Question
from tests.deployments.serving import client_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with client_of("tiny", tmp_path_factory.mktemp("state")) as made:
        yield made


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


def test_an_answer_follows_the_schema_that_was_asked_for(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    said = json.loads(ask(client, "generalist", "Invent a person.", response_format=form, max_tokens=64))
    assert set(said) == {"name", "age"}
    assert isinstance(said["age"], int)


def test_a_schema_that_cannot_be_followed_is_a_clear_error(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "no", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError):
        ask(client, "generalist", "Invent a person.", response_format=form)


def test_a_batch_of_200_lines_is_uploaded_answered_and_downloaded(client: openai.OpenAI) -> None:
    questions = mixed_suite(20, "test", 77)
    lines = [
        {"custom_id": question.id, "method": "POST", "url": "/v1/chat/completions", "body": body_of(question)}
        for question in questions
    ]
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("lines.jsonl", raw), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    until = time.monotonic() + 300
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < until, batch
        time.sleep(0.5)  # what a client does
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    rows = [json.loads(row) for row in client.files.content(str(batch.output_file_id)).text.splitlines()]
    assert [row["custom_id"] for row in rows] == [question.id for question in questions]
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
    right = sum(map(is_right, said, questions))
    assert right >= 0.8 * len(questions)


def body_of(question: Question) -> dict[str, object]:
    return {"model": "symmoe/auto", "messages": [{"role": "user", "content": question.question}]}
