"""Anthropic's own client."""

from anthropic import Anthropic, beta_tool
from pydantic import BaseModel

client, model = Anthropic(), "symmoe/auto"
TOOL = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
asked = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "sums of 1"}]}


class City(BaseModel):
    name: str
    people: int


# a question, whole and streamed, with a system prompt
whole = client.messages.create(system="Be brief.", **asked)
assert whole.content[0].text == "adder: sums of 1", whole
assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 4)
with client.messages.stream(system=[{"type": "text", "text": "Be brief."}], **asked) as stream:
    assert "".join(stream.text_stream) == "adder: sums of 1"
    assert stream.get_final_message().usage.output_tokens == 4
assert client.messages.count_tokens(model=model, messages=asked["messages"], system="Be brief.").input_tokens > 3

# a loop with a tool
turns = [{"role": "user", "content": "How is the weather in Lisbon?"}]
said = client.messages.create(model=model, max_tokens=64, messages=turns, tools=[TOOL])
assert said.stop_reason == "tool_use", said
(use,) = [block for block in said.content if block.type == "tool_use"]
assert use.input == {"city": "Lisbon"}
result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
turns += [{"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
assert (
    client.messages.create(model=model, max_tokens=64, messages=turns, tools=[TOOL]).content[0].text == "It is sunny."
)
with client.messages.stream(model=model, max_tokens=64, messages=turns[:1], tools=[TOOL]) as stream:
    (use,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
assert use.input == {"city": "Lisbon"}


# the client's own loop, and its own structured outputs
@beta_tool
def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


runner = client.beta.messages.tool_runner(model=model, max_tokens=64, messages=turns[:1], tools=[weather])
assert runner.until_done().content[0].text == "It is sunny in Lisbon."
parsed = client.messages.parse(output_format=City, **asked)
assert parsed.parsed_output == City(name="Lisbon", people=17), parsed
assert next(each.id for each in client.models.list()) == model
