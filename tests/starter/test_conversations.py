"""A second turn, or a question behind its background, gets the expert that the question by itself would."""

from __future__ import annotations

import pytest

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.types import Message, Query, Sampling

ROMAN, SPANISH = "Write the number 444 as a Roman numeral.", "How do you say the number 54 in Spanish?"
RADIO, SORT = (
    "Spell the call sign K T W in the radio alphabet.",
    "Sort these numbers from smallest to largest: 41, 7, 88",
)
REVERSE, DATE = "Reverse this list of words: lamp, orange, window", "Write the date March 7, 2011 in ISO format."
TWO_TURNS = [  # the first turn, the second, and the expert that the second needs
    (ROMAN, "And 19?", "roman"),
    (ROMAN, "What about 2,024?", "roman"),
    (ROMAN, "Now 88, please.", "roman"),
    (SPANISH, "And 19?", "spanish"),
    (SPANISH, "What about 783?", "spanish"),
    (RADIO, "And B Q A M?", "radio"),
    (RADIO, "Now X Y Z.", "radio"),
    (SORT, "And these: 12, 95, 3, 54", "sorting"),
    (REVERSE, "And these: cloud, table, river", "reversal"),
    (DATE, "And June 1, 1999?", "dates"),
    (DATE, "The same for May 4, 2020.", "dates"),
    ("Calculate 34 + 58.", "And 91 + 27?", "arithmetic"),
    (ROMAN, "How do you say the number 19 in Spanish?", "spanish"),  # a topic of its own
    (SPANISH, "Write the number 54 as a Roman numeral.", "roman"),
    (RADIO, "Calculate 91 - 27.", "arithmetic"),
    (SORT, "Spell the call sign B Q A in the radio alphabet.", "radio"),
    (DATE, "Reverse this list of words: cloud, table, river", "reversal"),
    ("Calculate 34 + 58.", "Write the date May 4, 2020 in ISO format.", "dates"),
]
BACKGROUND = " ".join(
    f"Chapter {n}. The harbour was quiet, the boats lay still, and nobody had seen the captain since Monday."
    for n in range(1, 120)
)


def firsts(pool: Pool, conversations: list[tuple[str, ...]]) -> list[str]:
    """The first expert for each conversation of user turns, with an assistant's between them."""
    assembly = Assembly(pool)
    queries = []
    for turns in conversations:
        said = [m for turn in turns for m in (Message("user", turn), Message("assistant", "Certainly."))]
        queries.append(Query(turns[-1], tuple(said[:-1]), Sampling(16)))
    recruitments = assembly.recruiter.recruit(queries, assembly.tagger.tag(queries), 1, 0)
    return [recruitment.assignments[0].expert for recruitment in recruitments]


@pytest.mark.parametrize(("prefix", "most_wrong"), [("", 2), ("static:", 3)])
def test_a_second_turn_is_routed_with_what_it_refers_to(prefix: str, most_wrong: int) -> None:
    pool = read_pool("tiny")
    pool = pool.model_copy(
        update={"routing": pool.routing.model_copy(update={"embedder": f"{prefix}{pool.routing.embedder}"})}
    )
    found = firsts(pool, [(first, second) for first, second, _ in TWO_TURNS])
    wrong = [(*each, expert) for each, expert in zip(TWO_TURNS, found, strict=True) if expert != each[2]]
    assert len(wrong) <= most_wrong, wrong


def test_a_question_behind_2000_words_of_background_is_found() -> None:
    asked = {ROMAN: "roman", SPANISH: "spanish", RADIO: "radio", DATE: "dates"}
    assert len(BACKGROUND.split()) > 2000
    found = firsts(read_pool("tiny"), [(f"{BACKGROUND}\n\n{question}",) for question in asked])
    assert found == list(asked.values())
