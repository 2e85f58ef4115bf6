"""Pydantic AI: an agent with a tool and a typed result, by two doors."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


class City(BaseModel):
    name: str
    people: int


async def streamed(agent: Agent) -> str:
    async with agent.run_stream("How is the weather in Lisbon?") as result:
        return await result.get_output()


for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind("symmoe/auto")
    assert Agent(model).run_sync("sums of 1").output == "adder: sums of 1", kind
    assert Agent(model, output_type=City).run_sync("A city?").output == City(name="Lisbon", people=17), kind
    agent = Agent(model, instructions="Be brief.")

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    assert agent.run_sync("How is the weather in Lisbon?").output == "It is sunny in Lisbon.", kind
    assert asyncio.run(streamed(agent)) == "It is sunny in Lisbon.", kind
