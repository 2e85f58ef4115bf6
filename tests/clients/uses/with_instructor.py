"""Instructor in its default mode, which is calling a tool."""

import instructor
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


client = instructor.from_openai(OpenAI())
asked = [{"role": "user", "content": "A city?"}]
found = client.chat.completions.create(model="symmoe/auto", response_model=City, messages=asked)
assert found.model_dump() == {"name": "Lisbon", "people": 17}, found
partial = client.chat.completions.create_partial(model="symmoe/auto", response_model=City, messages=asked)
*_, last = partial
assert (last.name, last.people) == ("Lisbon", 17)
