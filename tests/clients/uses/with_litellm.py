"""LiteLLM, by OpenAI's and by Anthropic's door."""

import os

import litellm

base = os.environ["BASE"]
asked = [{"role": "user", "content": "sums of 1"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
doors = {"openai/symmoe/auto": f"{base}/v1", "anthropic/symmoe/auto": base, "hosted_vllm/symmoe/auto": f"{base}/v1"}
for model, address in doors.items():
    options = {"model": model, "api_base": address, "api_key": "none", "messages": asked}
    assert litellm.completion(**options).choices[0].message.content == "adder: sums of 1", model
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True)]
    assert "".join(pieces) == "adder: sums of 1", (model, pieces)
    (call,) = litellm.completion(**options, tools=[TOOL]).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Lisbon"}'), model
found = litellm.embedding("openai/symmoe/embedder", ["a"], api_base=f"{base}/v1", api_key="none")
assert len(found.data) == 1
said = litellm.responses(model="openai/symmoe/auto", input="sums of 1", api_base=f"{base}/v1", api_key="none")
assert said.output[0].content[0].text == "adder: sums of 1"
said = litellm.text_completion("sums of 1", "text-completion-openai/symmoe/auto", api_base=f"{base}/v1", api_key="none")
assert said.choices[0].text == "adder: sums of 1"
