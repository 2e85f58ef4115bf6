"""Texts of several families of models, read by vLLM's own parsers over a real tokenizer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.readers import Parted, Reader
from symmoe.errors import EngineError
from symmoe.types import Generation, Sampling

pytestmark = pytest.mark.engine
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
PLAIN, ABLE = Sampling(16), Sampling(16, tools=json.dumps([TOOL]))
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tokenizer of SmolLM2 with the marks of a model that thinks."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Assembly(read_pool("tiny")).weights("generalist").model)
    tokenizer.add_tokens(["<think>", "</think>"])
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["deepseek_r1", "qwen3", "granite"])
def test_thoughts_are_told_from_words_whole_and_as_they_come(model: str, name: str) -> None:
    marks = ("Here is my thought process:", "Here is my response:") if name == "granite" else ("<think>", "</think>")
    text = f"{marks[0]}\nTwo and two.\n{marks[1]}\n\nIt is 4."
    reader = Reader.of(model, name, None)
    read = reader.read(Generation(text, "stop", 1, 9), PLAIN)
    assert (read.reasoning, read.text) == ("Two and two.", "It is 4.")
    assert 3 <= read.reasoning_tokens <= 6
    parted, thoughts, words = Parted(reader, PLAIN), "", ""
    for start, end in pairwise([0, len(marks[0]), len(marks[0]) + 7, text.index(marks[1]), len(text) - 4, len(text)]):
        thought, said = parted.feed(text[start:end])
        thoughts, words = thoughts + thought, words + said
    _, thought, said = parted.end(Generation(text, "stop", 1, 9))
    assert (thoughts + thought, words + said) == (read.reasoning, read.text)


def test_calls_are_those_that_the_model_s_parser_finds(model: str) -> None:
    reader = Reader.of(model, "deepseek_r1", "hermes")
    read = reader.read(Generation(f"<think>Add.</think>I add. {CALL}", "stop", 1, 9), ABLE)
    assert (read.reasoning, read.text) == ("Add.", "I add.")
    assert [(call.name, json.loads(call.arguments)) for call in read.calls] == [("add", {"a": 1})]
    assert reader.read(Generation(f"</think>{CALL}", "stop", 1, 9), PLAIN).calls == ()
    parted = Parted(reader, ABLE)
    assert parted.feed(f"<think>Add.</think>I add. {CALL}") == ("Add.", "")


def test_what_is_held_to_a_schema_thinks_nothing(model: str) -> None:
    read = Reader.of(model, "deepseek_r1", None).read(Generation("{}", "stop", 1, 1), Sampling(16, schema="{}"))
    assert (read.reasoning, read.text) == ("", "{}")


def test_a_parser_that_is_not_there_or_does_not_suit_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no parser 'nothing'"):
        Reader.of(model, "nothing", None)
    with pytest.raises(EngineError, match="no parser 'nothing'"):
        Reader.of(model, None, "nothing")
    without = Assembly(read_pool("tiny")).weights("generalist").model
    with pytest.raises(EngineError, match="does not suit"):
        Reader.of(without, "deepseek_r1", None)
