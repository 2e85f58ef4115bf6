"""LangChain: a chat model, structured outputs, embeddings, and an agent with a tool."""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


for responses in (False, True):
    model = ChatOpenAI(model="symmoe/auto", use_responses_api=responses)
    assert model.invoke("sums of 1").text == "adder: sums of 1"
    assert "".join(chunk.text for chunk in model.stream("sums of 1")) == "adder: sums of 1"
    for method in ("json_schema", "function_calling"):
        assert model.with_structured_output(City, method=method).invoke("A city?") == City(name="Lisbon", people=17)
    agent = create_agent(model, [weather], system_prompt="Be brief.")
    turns = {"messages": [{"role": "user", "content": "How is the weather in Lisbon?"}]}
    assert agent.invoke(turns)["messages"][-1].text == "It is sunny in Lisbon."
    *_, last = agent.stream(turns, stream_mode="values")
    assert last["messages"][-1].text == "It is sunny in Lisbon."
embeddings = OpenAIEmbeddings(model="symmoe/embedder", check_embedding_ctx_length=False)
assert len(embeddings.embed_query("a")) > 1
