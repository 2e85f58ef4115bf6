"""Clients as their users have them, each script in `uses` run against a service whose engine is a polite echo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.settings import Settings

from symmoe.types import Generation, Query
from tests import environments
from tests.deployments.api.conftest import Running, ScriptedEngine, running
from tests.stores import own_state

USES = Path(__file__).parent / "uses"
Use = Callable[..., None]


class Assistant(ScriptedEngine):
    """Does what it is asked to: follows a schema, calls the first tool as Qwen writes calls, tells what a tool gave."""

    def _answer(self, query: Query) -> Generation:
        asked, last = query.sampling, query.messages[-1]
        if asked.schema is not None and asked.form == "json":
            text = json.dumps(instance(json.loads(asked.schema)))
        elif asked.tools and last.role != "tool":
            function = json.loads(asked.tools)[0]["function"]
            call = {"name": function["name"], "arguments": instance(function.get("parameters", {}))}
            text = f"```json\n{json.dumps(call)}\n```"
        elif last.role == "tool":
            text = f"It is {last.content}."
        else:
            return super()._answer(query)
        return Generation(text, "stop", len(query.text.split()), len(text.split()))


def instance(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The plainest value that a schema allows."""
    root = root or schema
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return instance(schema[choice][0], root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(each, root) for name, each in schema.get("properties", {}).items()}
    return {"string": "Lisbon", "integer": 17, "number": 17.5, "boolean": True, "array": [], "null": None}[kind]


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of one polite expert."""
    folder, one = tmp_path_factory.mktemp("pool"), ("adder",)
    large: dict[str, Any] = {"by": Assistant(4096), "engine": {"max_model_len": 4096}}
    with own_state(folder, cache=False), running(folder, Settings(), experts=one, able=one, **large) as served:
        yield served


@pytest.fixture(scope="session")
def environment() -> Path:
    """Python with the clients that `requirements.txt` pins."""
    return environments.environment(Path(__file__).with_name("requirements.txt"))


@pytest.fixture
def use(assistant: Running, tmp_path: Path) -> Use:
    """Runs a script of `uses` with a client's Python, or this one's, and shows what it said where it fails."""

    def run(script: str, python: Path = Path(sys.executable)) -> None:
        own = {"BASE": assistant.url, "OPENAI_BASE_URL": f"{assistant.url}/v1", "ANTHROPIC_BASE_URL": assistant.url}
        keys = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none", "HOME": str(tmp_path), "NO_PROXY": "*"}
        quiet = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1"}
        path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
        command = [str(python), str(USES / script)]
        done = subprocess.run(
            command, env={**own, **keys, **quiet, **path}, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-6000:]

    return run
