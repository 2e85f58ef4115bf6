"""Annotating validation questions by an expert of the pool, grouped: the annotator is loaded once."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.build import Assembly
from symmoe.evaluation.matrix import gathered
from symmoe.pipeline import Watch
from symmoe.planning.grouping import plan
from symmoe.routing.keywords import PASSES, annotation_queries, keywords_of
from symmoe.types import Assignment, Recruitment


def annotate(
    assembly: Assembly,
    annotator: str,
    questions: Sequence[str],
    seed: int,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> list[tuple[str, ...]]:
    """The keywords of each question, empty where the passes agreed on none."""
    queries = annotation_queries(questions, seed)
    alone = [Recruitment(query.id, (Assignment(query.id, annotator, 0),), {annotator: 1.0}) for query in queries]
    refusals = assembly.executor.refuse(queries)
    steps = plan(
        [query for query, refusal in zip(queries, refusals, strict=True) if refusal is None],
        [recruitment for recruitment, refusal in zip(alone, refusals, strict=True) if refusal is None],
        assembly.models,
    )
    texts = {candidate.query_id: candidate.text for candidate in gathered(assembly.executor, steps, watch)}
    return [keywords_of([texts.get(f"{n}/{turn}", "") for turn in range(PASSES)]) for n in range(len(questions))]
