"""The bound: a right answer wherever any expert gives one."""

from __future__ import annotations

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.scoring import is_right


class Oracle:
    """Every expert once, and a judge who knows the answer. No choice among these candidates can be better."""

    def answer(self, contest: Contest) -> Answered:
        """A call to every expert for each question."""
        found, spent = contest.ask_all(contest.assembly.pool.names)
        rows = zip(found, contest.questions, strict=True)
        return Answered(
            tuple(next((c.text for c in row if is_right(c.text, q)), row[0].text) for row, q in rows), spent
        )
