"""What an expert thinks stands apart from what it says, at every door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from symmoe.deployments.settings import Settings

from symmoe.engines.readers import Reader
from symmoe.types import Sampling
from tests.deployments.api.conftest import Running, running
from tests.deployments.api.test_doors import events

pytestmark = pytest.mark.usefixtures("state")
SAYS = "so thinks sums and so on END of 1 and more"
THOUGHT, SAID = "adder: so thinks sums and so on", "of 1 and more"
ASKED: Any = [{"role": "user", "content": SAYS}]


class UpToTheEnd(Reader):
    """What stands before END was thought; a token is a word."""

    def __init__(self) -> None:
        self._tools = self._reasoning = None
        self.marked = True
        self._tokenizer = lambda text, **_: SimpleNamespace(input_ids=text.split())

    def thought(self, text: str, sampling: Sampling) -> tuple[str, str]:
        thought, _, said = text.partition("END")
        return thought, said


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("pool"), Settings(), experts=("adder", "speaker"), reader=UpToTheEnd()
    ) as served:
        yield served


@pytest.mark.parametrize("model", ["adder", "symmoe/auto", "symmoe/best"])
def test_a_chat_has_reasoning_content_whole_and_streamed(thinking: Running, model: str) -> None:
    whole = thinking.openai.chat.completions.create(model=model, messages=ASKED)
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == (SAID, THOUGHT)  # type: ignore[attr-defined]
    assert whole.usage.completion_tokens_details.reasoning_tokens % 7 == 0  # type: ignore[union-attr]
    stream = thinking.openai.chat.completions.create(model=model, messages=ASKED, stream=True)
    deltas = [choice.delta for chunk in stream for choice in chunk.choices]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert ("".join(thoughts), "".join(delta.content or "" for delta in deltas)) == (THOUGHT, SAID)
    assert not any("END" in (delta.content or "") for delta in deltas)


def test_a_strict_service_takes_back_all_that_a_response_or_a_message_had(tmp_path: Path) -> None:
    """Items with their ids, states and log-probabilities, as OpenAI's clients send them."""
    tool: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    with running(
        tmp_path, Settings(strict=True), experts=("adder", "speaker"), able=("adder",), reader=UpToTheEnd()
    ) as strict:
        create = partial(strict.openai.responses.create, model="adder", tools=[tool], top_logprobs=1)
        asked: Any = [{"role": "user", "content": f'{SAYS} {{"name": "add", "arguments": {{}}}}'}]
        output = create(input=asked).output
        assert [item.type for item in output] == ["reasoning", "message", "function_call"]
        gave = {"type": "function_call_output", "id": "fc_1", "status": "completed", "output": "3"}
        gave["call_id"] = output[-1].call_id  # type: ignore[union-attr]
        for sent in (output, [item.model_dump() for item in output]):
            strict.engine.asked.clear()
            create(input=[*asked, *sent, gave])
            _, said, result = strict.engine.asked[0].messages
            assert (said.content, said.calls[0].id) == (SAID, result.call_id)
        strict.engine.asked.clear()
        again = {"model": "adder", "messages": asked, "tools": [{"type": "function", "function": {"name": "add"}}]}
        message = strict.post(json=again).json()["choices"][0]["message"]
        message["tool_calls"] = [{**message["tool_calls"][0], "index": 1}]  # as who put a stream together has it
        gave = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "3"}
        taken = strict.post(json={**again, "messages": [*asked, message, gave]})
        assert taken.status_code == 200, taken.text
        assert [turn.content for turn in strict.engine.asked[-1].messages[1:]] == [SAID, "3"]
        lost: Any = [{**asked[0], "contents": "misspelt"}]
        with pytest.raises(openai.BadRequestError, match=r"unknown parameter: input\.contents"):
            create(input=lost)


def test_a_message_has_a_block_of_thinking(thinking: Running) -> None:
    body = {"model": "adder", "max_tokens": 99, "messages": ASKED}
    thought, said = thinking.post("/v1/messages", json=body).json()["content"]
    assert (thought["type"], thought["thinking"], said["text"]) == ("thinking", THOUGHT, SAID)
    found = events(thinking.post("/v1/messages", json={**body, "stream": True}).text)
    starts = [(e["index"], e["content_block"]["type"]) for e in found if e["type"] == "content_block_start"]
    assert starts == [(0, "thinking"), (1, "text")]
    assert "".join(e["delta"].get("thinking", "") for e in found if e["type"] == "content_block_delta") == THOUGHT


def test_a_response_has_an_item_of_reasoning(thinking: Running) -> None:
    whole = thinking.openai.responses.create(model="adder", input=SAYS)
    thought, _ = whole.output
    assert (thought.type, thought.content[0].text, whole.output_text) == ("reasoning", THOUGHT, SAID)  # type: ignore[union-attr, index]
    assert whole.usage.output_tokens_details.reasoning_tokens == 7  # type: ignore[union-attr]
    stream = list(thinking.openai.responses.create(model="adder", input=SAYS, stream=True))
    assert "".join(e.delta for e in stream if e.type == "response.reasoning_text.delta") == THOUGHT
    assert stream[-1].response.output_text == SAID  # type: ignore[union-attr]
    done = [event.item for event in stream if event.type == "response.output_item.done"]
    assert [item.type for item in done] == ["reasoning", "message"]
    again = thinking.openai.responses.create(model="adder", input="more", previous_response_id=whole.id)
    assert again.status == "completed"


def test_a_batch_has_it_too(thinking: Running) -> None:
    line = {"custom_id": "q", "method": "POST", "url": "/v1/chat/completions"}
    raw = json.dumps({**line, "body": {"model": "adder", "messages": ASKED}}).encode()
    client = thinking.openai
    file = client.files.create(file=("q.jsonl", raw), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    thinking.until('symmoe_batch_states_total{state="completed"}', 1.0)
    output = client.batches.retrieve(batch.id).output_file_id
    message = json.loads(client.files.content(str(output)).text)["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (SAID, THOUGHT)


@pytest.mark.parametrize("model", ["adder", "symmoe/best"])
@pytest.mark.parametrize("call", ["", ' {"name": "add", "arguments": {}}'])
def test_a_streamed_response_with_log_probabilities_has_the_items_of_a_whole_one(
    tmp_path: Path, model: str, call: str
) -> None:
    """Tokens of what was thought, which have no text, open no message; beside tools the words have their own."""
    tool: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    with running(
        tmp_path, Settings(), experts=("adder", "speaker"), able=("adder", "speaker"), reader=UpToTheEnd()
    ) as served:
        asked: Any = {"model": model, "input": SAYS + call, "tools": [tool] if call else [], "top_logprobs": 1}
        whole = [item.type for item in served.openai.responses.create(**asked).output]
        stream = list(served.openai.responses.create(**asked, stream=True))
    done = [event.item for event in stream if event.type == "response.output_item.done"]
    assert [item.type for item in done] == whole == ["reasoning", "message", *(["function_call"] if call else [])]
    given: Any = [event for event in stream if event.type == "response.output_text.delta"]
    assert "".join(each.delta for each in given) == SAID
    if model == "adder":
        assert ["".join(token.token for token in each.logprobs).strip() for each in given[1:]] == SAID.split()[1:]
