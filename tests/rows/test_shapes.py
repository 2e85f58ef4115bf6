from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import RequestError
from symmoe.rows.shapes import Asked, Reading, ShapeError, reference_of
from symmoe.types import Message


def asked(row: dict[str, Any], **reading: Any) -> Asked:
    return Reading(**reading).asked(row)


def text(row: dict[str, Any], **reading: Any) -> str:
    (message,) = asked(row, **reading).messages
    assert message.role == "user"
    return message.content


@pytest.mark.parametrize(
    "options",
    [
        {"choices": ["ice", "iron"]},
        {"options": ["A. ice", "B. iron"]},
        {"options": {"A": "ice", "B": "iron", "C": None}},
        {"choices": {"text": ["ice", "iron"], "label": ["A", "B"]}},
        {"choices": [{"label": "A", "text": "ice"}, {"label": "B", "text": "iron"}]},
        {"choices": '["ice", "iron"]'},
        {"choices": '{"text": ["ice", "iron"], "label": ["A", "B"]}'},
        {"A": "ice", "B": "iron", "C": ""},
    ],
)
def test_options_follow_the_question_each_after_its_letter(options: dict[str, Any]) -> None:
    assert text({"question": "What melts?", **options}) == "What melts?\nA. ice\nB. iron"


@pytest.mark.parametrize("options", [{"choices": "ice or iron"}, {"choices": 5}, {"choices": [["ice"]]}])
def test_options_that_are_none_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        asked({"question": "What melts?", **options})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"Question": "Why?"}, "Why?"),
        ({"instruction": "Sort.", "input": "b a"}, "Sort.\n\nb a"),
        ({"instruction": "Sort.", "input": None}, "Sort."),
        ({"question": "Who?", "passage": "Ada came."}, "Ada came.\n\nWho?"),
        ({"problem": "1+1?", "prompt": None, "question": ""}, "1+1?"),
        ({"prompt": "Why?", "messages": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"prompt": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"turns": '["Why?"]'}, "Why?"),
    ],
)
def test_a_shape_is_known_by_its_columns(row: dict[str, Any], says: str) -> None:
    assert text(row) == says


def test_a_conversation_is_asked_up_to_the_users_last_turn() -> None:
    said = [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    said += [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}, {"from": "gpt", "value": "e"}]
    turns = (Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert asked({"conversations": said}).messages == turns
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert text({"messages": parts}) == "ab"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "prompt": "b"},
        {"instruction": "a", "turns": ["a", "b"]},
        {"question": "a", "context": {"title": []}},
        {"text": "a"},
        {},
    ],
)
def test_a_row_that_could_be_asked_in_two_ways_or_in_none_names_its_columns(row: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="its columns are") as caught:
        asked(row)
    assert all(repr(name) in str(caught.value) for name in row)
    assert "--prompt-column" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ""},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": ["a"]},
        {"messages": "a"},
        {"turns": ["a", ""]},
        {"turns": ["a", 5]},
        {"question": 5},
        {"conversations": [{"from": "nobody", "value": "a"}]},
    ],
)
def test_a_row_of_a_known_shape_with_nothing_to_ask_is_one_error_of_its_own(row: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        asked(row)
    assert not isinstance(caught.value, ShapeError)


def test_a_system_message_stands_first_unless_the_row_has_one() -> None:
    assert asked({"prompt": "a"}, system="S").messages == (Message("system", "S"), Message("user", "a"))
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    assert asked({"messages": own}, system="S").messages[0] == Message("system", "own")


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"question": "a", "answer": "4 + 9 = 13\n#### 13"}, "4 + 9 = 13\n#### 13"),
        ({"question": "a", "choices": ["x", "y"], "answer": 1}, "B"),
        ({"question": "a", "choices": ["x", "y"], "answer": "y"}, "B"),
        ({"question": "a", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"question": "a", "gold_answer": 40}, "40"),
        ({"Question": "a", "Best Answer": "No"}, "No"),
        ({"problem": "a", "solution": r"\boxed{3}"}, r"\boxed{3}"),
        ({"question": "a", "answers": ["x"]}, None),
        ({"question": "a", "answer": None}, None),
    ],
)
def test_a_known_answer_is_found(row: dict[str, Any], known: str | None) -> None:
    assert reference_of(row) == known


_names = st.sampled_from(
    "prompt messages question problem instruction input conversations turns choices options context id A B text".split()
)
_said = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": st.text(max_size=3)})
_value = st.none() | st.text(max_size=4) | st.integers() | st.lists(st.text(max_size=3) | _said, max_size=3) | _said


@given(st.dictionaries(_names, _value, max_size=5))
def test_any_row_asks_something_or_says_what_is_wrong(row: dict[str, Any]) -> None:
    try:
        found = asked(row)
    except RequestError:
        return
    assert any(message.role == "user" for message in found.messages)
    assert found.shape.split(" + ")[0] in row


def test_half_a_surrogate_pair_written_in_a_cell_is_no_turn() -> None:
    with pytest.raises(RequestError, match="must be a list"):
        asked({"turns": r'["cut \ud83d"]'})
