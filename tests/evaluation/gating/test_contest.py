from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symmoe.evaluation.gating.contest import Remembering, contest, plain
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.gating.settings import SETTINGS, cut
from symmoe.types import Assignment, Query, Recruitment, Reward, Verdict
from tests.evaluation.gating.made import always
from tests.fakes import candidate, query, question


def outvoted(count: int) -> Field:
    """The right answer is one expert's of three; its share is the largest."""
    asked = tuple(question(f"q {n}", "yes", ident=str(n)) for n in range(count))
    rows = tuple((candidate("a", "yes"), candidate("b", "no"), candidate("c", "no")) for _ in asked)
    shares = {"a": 0.6, "b": 0.2, "c": 0.2}
    return Field(asked, tuple(query(q.question, q.id) for q in asked), rows, (Recruitment("q", (), shares),) * count)


def test_votes_are_compared_on_the_same_candidates() -> None:
    field = outvoted(8)
    wrong = [[Verdict("a", 0, 0.0), Verdict("b", 0, 1.0), Verdict("c", 0, 0.0)]] * 8
    found = contest(field, {"wrong": wrong}, 0)
    assert {name: way["accuracy"] for name, way in found["ways"].items()} == {
        "plain_vote": 0.0,
        "profile_vote": 1.0,
        "wrong": 0.0,
        "oracle": 1.0,
    }
    assert found["ways"]["profile_vote"]["over_plain_vote"] == {"points": 100.0, "ci95": [100.0, 100.0]}
    assert found["ways"]["wrong"]["over_profile_vote"]["points"] == -100.0
    assert (found["questions"], found["candidates"]) == (8, 24)


def test_plain_votes_leave_out_what_is_no_answer() -> None:
    field = replace(outvoted(1), candidates=((candidate("a", "yes"), candidate("b", ""), candidate("c", "")),))
    assert [v.weight for v in plain(field)[0]] == [1.0, 0.0, 0.0]


class Counting:
    """Scores a text by its length, and counts the texts that it was shown."""

    shown = 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.shown += sum(map(len, candidates))
        return [[Reward(float(len(text))) for text in row] for row in candidates]


def test_every_answer_to_a_question_is_read_once() -> None:
    model = Counting()
    asked = Remembering(model)
    queries, rows = [query("one"), query("two", "r")], [["yes", "no", "yes"], ["yes"]]
    expected = [[Reward(3.0), Reward(2.0), Reward(3.0)], [Reward(3.0)]]
    assert asked.score(queries, rows) == asked.score(queries, rows) == expected
    assert model.shown == 3
    assert asked.score(queries[1:], [["maybe", "yes"]]) == [[Reward(5.0), Reward(3.0)]]
    assert model.shown == 4


def test_settings_cut_the_candidates_by_how_experts_stand() -> None:
    field = outvoted(1)
    drawn = (*field.candidates[0], *always("yes", "d"), *(candidate("a", "yes", slot) for slot in range(1, 5)))
    standing = Recruitment("q", (Assignment("q", "b", 0),), {"a": 0.5, "c": 0.2, "b": 0.2, "d": 0.1})
    cuts = cut(replace(field, candidates=(drawn,), recruitments=(standing,)))
    told = {name: [(c.expert, c.slot) for c in each.candidates[0]] for name, each in cuts.items()}
    assert told == {
        "everyone": [("a", 0), ("b", 0), ("c", 0), ("d", 0)],
        "three_experts": [("a", 0), ("b", 0), ("c", 0)],
        "two_experts_redrawn": [("a", 1), ("a", 2), ("a", 3), ("a", 4)],
        "one_expert_redrawn": [("a", 1), ("a", 2), ("a", 3)],
        "recruited": [("b", 0)],
    }
    assert set(told) == set(SETTINGS)


def test_a_setting_without_candidates_is_left_out() -> None:
    assert "one_expert_redrawn" not in cut(outvoted(2))
