"""How an aggregator is asked to make one answer of several texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symmoe.aggregation.cases import Case
from symmoe.aggregation.cleaning import without_reasoning
from symmoe.aggregation.prompting import Window, prompt_for
from symmoe.aggregation.vote import WeightedVote
from symmoe.types import Candidate, Message, Query, Verdict

Wording = Callable[[Query, Sequence[str], int], Query]
"""Words the task of answering a query in the light of texts, for a window of so many tokens."""

_LEAST_CHARACTERS = 80


def fenced(query: Query, texts: Sequence[str], window: int) -> Query:
    """As the pipeline asks its aggregator: the texts as fenced data of one weight; `references` if they do not fit."""
    candidates = tuple(Candidate(query.id, f"{n}", 0, text, "stop", 0, 0, "resident") for n, text in enumerate(texts))
    verdicts = tuple(Verdict(candidate.expert, 0, 1.0) for candidate in candidates)
    voted = WeightedVote().aggregate(query, candidates, verdicts)
    prompt = prompt_for(Case(query, candidates, verdicts, voted), Window(window, most=len(texts)), seed=0)
    return prompt.query if prompt else references(query, texts, window)


def references(query: Query, texts: Sequence[str], window: int) -> Query:
    """As Mixture-of-Agents asks: the texts as references in a system turn before the question.

    They are cut alike to leave room in the window; what an expert thought aloud is left out.
    """
    room = max(_LEAST_CHARACTERS, 2 * window // max(len(texts), 1))
    shown = "\n".join(f"{n}. {without_reasoning(text).strip()[:room]}" for n, text in enumerate(texts, start=1))
    words = (
        "Several assistants have answered the user's question. Some of their answers may be wrong. "
        f"Weigh them, then give the one right answer and nothing else.\n\nAnswers:\n{shown}"
    )
    return Query(query.id, (Message("system", words), *query.messages), query.sampling, query.kind)
