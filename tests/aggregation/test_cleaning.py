from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.cleaning import encodable, visible, without_reasoning

anything = st.text(st.characters(exclude_categories=()), max_size=60)


@given(anything)
def test_every_text_can_be_encoded_after_cleaning(text: str) -> None:
    assert encodable(text).encode().decode() == encodable(text)
    assert visible(text) == visible(visible(text))


def test_text_that_is_sound_is_left_alone_and_halves_of_pairs_are_mended_or_replaced() -> None:
    assert encodable("¿Cuánto? 🙂") == "¿Cuánto? 🙂"
    assert encodable("a\ud83d\ude42b") == "a🙂b"
    assert encodable("a\ud83db") == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("4\u200b2", "42"),
        ("\ufeff\u202eabc\u202c", "abc"),
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a\tb", "a\tb"),
        ("x\U000e0041y", "xy"),
        ("\x1b[2J", "[2J"),
    ],
)
def test_invisible_characters_go_and_every_end_of_a_line_is_a_newline(text: str, left: str) -> None:
    assert visible(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>no</think>yes", "yes"),
        ("thinking aloud</think>yes", "yes"),
        ("yes <think>no</think> indeed", "yes  indeed"),
        ("yes <think>never closed", "yes "),
        ("<think>all there is", " all there is"),
        ("[THINK]no[/THINK]yes", "yes"),
        ("◁think▷no◁/think▷yes", "yes"),
        ("<|begin_of_thought|>no<|end_of_thought|>yes", "yes"),
        ("<THINK>no</Think>yes", "yes"),
        ("no markers", "no markers"),
    ],
)
def test_what_stands_outside_of_reasoning_is_kept_or_else_the_reasoning(text: str, left: str) -> None:
    assert without_reasoning(text) == left
