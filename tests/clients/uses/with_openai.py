"""OpenAI's own client."""

import json
import time

from openai import OpenAI
from pydantic import BaseModel

client, model = OpenAI(), "symmoe/auto"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    name: str
    people: int


# a question, whole and streamed
asked = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "sums of 1"}]
whole = client.chat.completions.create(model=model, messages=asked, reasoning_effort="low", store=True)
assert whole.choices[0].message.content == "adder: sums of 1", whole
with client.chat.completions.stream(model=model, messages=asked, stream_options={"include_usage": True}) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion()
assert final.choices[0].message.content == "adder: sums of 1", final
assert final.usage.total_tokens == whole.usage.total_tokens

# a loop with a tool, whole and streamed
for streamed in (False, True):
    turns = [{"role": "user", "content": "How is the weather in Lisbon?"}]
    if streamed:
        with client.chat.completions.stream(model=model, messages=turns, tools=[TOOL]) as stream:
            deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
            said = stream.get_final_completion().choices[0]
        assert "".join(event.arguments_delta for event in deltas) == said.message.tool_calls[0].function.arguments
    else:
        said = client.chat.completions.create(model=model, messages=turns, tools=[TOOL]).choices[0]
    assert said.finish_reason == "tool_calls", said
    (call,) = said.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Lisbon"}
    turns += [said.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    said = client.chat.completions.create(model=model, messages=turns, tools=[TOOL])
    assert said.choices[0].message.content == "It is sunny.", said

# structured outputs
parsed = client.chat.completions.parse(model=model, messages=asked, response_format=City).choices[0].message.parsed
assert parsed == City(name="Lisbon", people=17)
assert client.responses.parse(model=model, input="A city?", text_format=City).output_parsed == parsed

# responses
first = client.responses.create(model=model, input="sums of 1", instructions="Be brief.")
assert first.output_text == "adder: sums of 1"
second = client.responses.create(model=model, input="sums of 2", previous_response_id=first.id)
assert client.responses.retrieve(second.id).output_text == "adder: sums of 2"
with client.responses.stream(model=model, input="sums of 1") as stream:
    for _ in stream:
        pass
    assert stream.get_final_response().output_text == "adder: sums of 1"

# embeddings, models, completions
assert len(client.embeddings.create(model="symmoe/embedder", input=["a", "b"]).data) == 2
assert model in [each.id for each in client.models.list()]
texts = client.completions.create(model=model, prompt=["sums of 1", "sums of 2"], n=2, max_tokens=8).choices
assert [each.text for each in texts] == ["adder: sums of 1"] * 2 + ["adder: sums of 2"] * 2

# files and batches
body = {"model": model, "messages": asked}
lines = [{"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
file = client.files.create(file=("q.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
for _ in range(600):
    batch = client.batches.retrieve(batch.id)
    if batch.status in ("completed", "failed"):
        break
    time.sleep(0.1)
rows = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
assert [row["custom_id"] for row in rows] == ["q0", "q1", "q2"], rows
