from __future__ import annotations

from symmoe.build_scorer import build_scorer
from symmoe.config import RewardConfig, read_pool
from symmoe.profiles.grading import as_query
from symmoe.questions.suites import mixed_suite
from symmoe.scoring.rewards import RewardScorer
from symmoe.types import Assignment, Candidate, Query, Recruitment

EVASIVE = "I think that this is an interesting question, and the answer depends on many things."


def _says(query: Query, expert: str, text: str) -> Candidate:
    return Candidate(query.id, expert, 0, text, "stop", 9, 9, "resident", False)


def _asked(query: Query) -> tuple[Assignment, ...]:
    return tuple(Assignment(query.id, expert, 0) for expert in ("generalist", "json"))


def test_the_shipped_scorer_reads_answers_and_prefers_those_that_are_right() -> None:
    """On questions that it has never seen, from records that say nothing."""
    pool = read_pool("tiny").model_copy(update={"reward": RewardConfig(model="starter")})
    scorer = build_scorer(pool)
    assert isinstance(scorer, RewardScorer)
    questions = mixed_suite(1, "test", 31)
    queries = [as_query(question, pool.sampling) for question in questions]
    candidates = [
        [_says(query, "generalist", EVASIVE), _says(query, "json", question.answer)]
        for query, question in zip(queries, questions, strict=True)
    ]
    asked = [Recruitment(query.id, _asked(query), {"generalist": 0.5, "json": 0.5}) for query in queries]
    verdicts = scorer.weigh(queries, candidates, asked)
    right = sum(given[1].weight > given[0].weight for given in verdicts)
    assert right >= 0.9 * len(questions)
