"""Ten thousand tools, and tools whose schemas explode, are refused before anything is made of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from symmoe.deployments.settings import Settings

from symmoe.engines.grammars import Grammars
from symmoe.limits import SCHEMA_CHARACTERS, SCHEMA_DEPTH, TOOLS, TOOLS_CHARACTERS
from symmoe.tools import forced_schema
from tests.attacks.schemas import KILLER
from tests.attacks.test_schemas import QUICK, model_in
from tests.deployments.api.conftest import PATIENCE, Running, running
from tests.deployments.api.test_refusals import error_of

MIB = 1 << 20
Json = dict[str, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("pool"), Settings(), able=("adder",)) as service:
        yield service


def sent(served: Running, body: bytes) -> httpx.Response:
    return served.post(content=body, headers={"content-type": "application/json"})


def tool(number: int = 0, **parameters: Any) -> Json:
    return {"type": "function", "function": {"name": f"tool{number}", "parameters": parameters or {"type": "object"}}}


def asked(*tools: Json, **more: Any) -> Json:
    return {"model": "adder", "messages": [{"role": "user", "content": "sums"}], "tools": list(tools), **more}


def deep(levels: int) -> Json:
    """Objects within each other."""
    schema: Json = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def wide(count: int) -> Json:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}}


REQUIRED: Json = {"tool_choice": "required"}
ATTACKS: dict[str, Json] = {
    "10,000 tools": asked(*(tool(n) for n in range(10_000))),
    "one tool more than there may be": asked(*(tool(n) for n in range(TOOLS + 1))),
    "tools of too many characters": asked(tool(0, **wide(TOOLS_CHARACTERS // 20))),
    "a wide schema that is forced": asked(tool(0, **wide(SCHEMA_CHARACTERS // 10)), **REQUIRED),
    "a deep schema that is forced": asked(tool(0, **deep(SCHEMA_DEPTH)), **REQUIRED),
    "many schemas that are forced together": asked(*(tool(n, **wide(20)) for n in range(100)), **REQUIRED),
    "calls without end": asked(
        tool(),
        messages=[
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": f"c{n}", "type": "function", "function": {"name": "tool0", "arguments": "{}"}}
                    for n in range(TOOLS + 1)
                ],
            }
        ],
    ),
}


BODIES = {name: json.dumps(body).encode() for name, body in ATTACKS.items()}
BODIES["a schema without end"] = BODIES["a deep schema that is forced"].replace(b'"string"', b'{"a":' * 50_000)


@pytest.mark.parametrize("attack", BODIES)
def test_it_is_a_clear_400_at_once(served: Running, attack: str) -> None:
    began = time.process_time()  # of this process, in which the service runs
    error = error_of(sent(served, BODIES[attack]), 400)
    assert time.process_time() - began < 2
    assert error["param"] or error["code"] == "invalid_json", error
    assert len(error["message"]) < 300


@pytest.mark.parametrize("door", ["/v1/messages", "/v1/responses"])
def test_other_doors_refuse_them_too(served: Running, door: str) -> None:
    shape: Json = {"name": "t", "input_schema": {"type": "object"}}
    if door == "/v1/responses":
        shape = {"type": "function", "name": "t", "parameters": {"type": "object"}}
    body = {"model": "adder", "max_tokens": 4, "input": "sums", "messages": asked()["messages"]}
    tools = [{**shape, "name": f"t{n}"} for n in range(10_000)]
    left_out = "messages" if door == "/v1/responses" else "input"
    body.pop(left_out)
    assert served.post(door, json={**body, "tools": tools}).status_code == 400


def test_forty_of_each_leave_nothing_behind(served: Running) -> None:

    def attack(times: int) -> None:
        for _ in range(times):
            assert {sent(served, body).status_code for body in BODIES.values()} == {400}

    own = psutil.Process()
    attack(10)
    before = own.memory_info().rss
    attack(30)
    assert own.memory_info().rss - before < 12 * MIB


def test_a_forced_tool_whose_schema_explodes_is_refused_where_it_is_compiled(tmp_path: Path) -> None:
    """In a process of its own, within its bounds; the next one is compiled there."""
    grammars, model = Grammars(QUICK), model_in(tmp_path)
    try:
        exploding = forced_schema([tool(0, **KILLER)], None)
        assert grammars.verdict(exploding, model, "hostile").result(PATIENCE).fault is not None
        usual = forced_schema([tool(0, **wide(3))], None)
        assert grammars.verdict(usual, model, "friendly").result(PATIENCE).fault is None
    finally:
        grammars.close()
