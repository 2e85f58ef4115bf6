"""Annotating questions with skills by an LLM, as Symbolic-MoE §3.1 does (arXiv 2503.05641)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from symmoe.types import Message, Query, Sampling

PASSES = 5
MOST_KEYWORDS = 5
LONGEST = 20
LEAST_SEEN = 2
TEMPERATURE = 0.7

_PROMPT = (
    "Name the {least} to {most} skills or fields of knowledge that a person needs to answer the question below. "
    "Give short names of one or two words, separated by commas, most important first. Do not answer the question.\n\n"
    "Question: {question}\n\nSkills:"
)
_SEPARATORS = re.compile(r"[,;，；、\n•·]+")
_KEYWORD = re.compile(r"[^\W\d_][\w &/+#'.-]*")
_MARKS = re.compile(r"^[\s\d.)*#\"'`:-]+|[\s.*\"'`:]+$")


def annotation_queries(questions: Sequence[str], seed: int) -> list[Query]:
    """One query for each question and pass, in order of questions and then passes, each with a seed of its own."""
    return [
        Query(f"{number}/{turn}", (Message("user", _worded(question)),), Sampling(48, TEMPERATURE, seed=seed + turn))
        for number, question in enumerate(questions)
        for turn in range(PASSES)
    ]


def keywords_of(passes: Sequence[str]) -> tuple[str, ...]:
    """The keywords that more than one pass over a question gave, most frequent first."""
    seen = Counter(keyword for text in passes for keyword in dict.fromkeys(read_keywords(text)))
    return tuple(keyword for keyword, times in seen.most_common() if times >= LEAST_SEEN)


def read_keywords(text: str) -> list[str]:
    """The first five keywords in one pass's text, in lower case; drops non-words and any over 20 characters."""
    parts = [_MARKS.sub("", part).strip().lower() for part in _SEPARATORS.split(text)]
    return [part for part in parts if len(part) <= LONGEST and _KEYWORD.fullmatch(part)][:MOST_KEYWORDS]


def _worded(question: str) -> str:
    return _PROMPT.format(least=2, most=MOST_KEYWORDS, question=question)
