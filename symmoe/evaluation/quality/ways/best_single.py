"""One expert for everything."""

from __future__ import annotations

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.records import by_record
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.scoring import is_right


class BestSingle:
    """The expert with the best record: what a user would choose who may choose one."""

    def answer(self, contest: Contest) -> Answered:
        """One call for each question."""
        return _alone(contest, by_record(contest.assembly.profiles())[0])


class HindsightSingle:
    """The expert that is best on these very questions, which nobody could know; charged for its own calls only."""

    def answer(self, contest: Contest) -> Answered:
        """One call for each question."""
        return _alone(contest, best_in_hindsight(contest))


def best_in_hindsight(contest: Contest) -> str:
    """The expert with the most right answers, the first of the pool among equals."""
    names = contest.assembly.pool.names
    found, _ = contest.ask_all(names)
    rows = zip(found, contest.questions, strict=True)
    right = [[is_right(candidate.text, question) for candidate in mine] for mine, question in rows]
    counts = dict(zip(names, map(sum, zip(*right, strict=True)), strict=True))
    return max(names, key=lambda name: counts[name])


def _alone(contest: Contest, expert: str) -> Answered:
    found, spent = contest.ask_all([expert])
    return Answered(tuple(only.text for (only,) in found), spent)
