"""Text that grows, and calls that join and leave an engine that is running."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.build import Assembly
from symmoe.engines.streams import Stripped
from symmoe.types import Delta, Message, Query, Sampling


@given(st.lists(st.text(alphabet=" \n\tab", max_size=5), max_size=8))
def test_what_is_passed_on_adds_up_to_the_stripped_text_however_it_is_cut(pieces: list[str]) -> None:
    stripped = Stripped()
    given = "".join(stripped.feed(piece) for piece in pieces)
    assert given == stripped.whole == "".join(pieces).strip()


def query(text: str, tokens: int = 12, **sampling: object) -> Query:
    return Query("q", (Message("user", text),), Sampling(tokens, **sampling))  # type: ignore[arg-type]


def finished(assembly: Assembly) -> list[Delta]:
    deltas: list[Delta] = []
    while stepped := assembly.engine.step():  # type: ignore[attr-defined]
        deltas += stepped
    return deltas


@pytest.mark.engine
def test_a_stream_adds_up_to_what_the_same_call_gives_whole_and_others_join_in_between(assembly: Assembly) -> None:
    engine = assembly.engine
    assembly.loader.ready("roman")
    assert engine.add("first", query("Write 14 as a Roman numeral."), True) is None  # type: ignore[attr-defined]
    deltas = engine.step()  # type: ignore[attr-defined]
    assert engine.add("second", query("Write 14 as a Roman numeral."), False) is None  # type: ignore[attr-defined]
    deltas += finished(assembly)
    ends = {delta.id: delta.generation for delta in deltas if delta.generation}
    assert ends["first"] == ends["second"]
    assert "".join(delta.text for delta in deltas if delta.id == "first") == ends["first"].text
    assert ends["first"].completion_tokens > 1


@pytest.mark.engine
def test_an_aborted_call_gives_nothing_more_and_its_place_is_free_for_a_swap(assembly: Assembly) -> None:
    engine = assembly.engine
    assembly.loader.ready("roman")
    engine.add("left", query("Tell me a long story.", tokens=200), True)  # type: ignore[attr-defined]
    engine.step()  # type: ignore[attr-defined]
    engine.abort(["left", "nobody"])  # type: ignore[attr-defined]
    assert finished(assembly) == []
    assert assembly.loader.ready("spanish").expert == "spanish"


@pytest.mark.engine
def test_what_cannot_be_generated_for_is_refused_and_nothing_is_left_behind(assembly: Assembly) -> None:
    engine = assembly.engine
    refusal = engine.add("long", query("word " * 5000), True)  # type: ignore[attr-defined]
    assert refusal.code == "context_length_exceeded"
    assert finished(assembly) == []
