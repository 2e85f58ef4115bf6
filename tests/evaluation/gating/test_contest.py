from __future__ import annotations

from dataclasses import replace

import pytest

from symmoe.evaluation.gating.contest import contest, plain, reweighed
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.gating.settings import SETTINGS, cut
from symmoe.gating.mixing import Mixture
from symmoe.types import Assignment, Recruitment, Reward, Verdict
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


def test_the_same_rewards_can_be_weighed_without_records() -> None:
    field = outvoted(1)
    rewards = [Reward(0.0), Reward(None), Reward(0.0)]
    verdicts = [[Verdict(c.expert, 0, 0.5, r) for c, r in zip(field.candidates[0], rewards, strict=True)]]
    assert [v.weight for v in reweighed(field, verdicts, Mixture(1.0, 0.0))[0]] == pytest.approx([0.5, 0.0, 0.5])
    assert [v.weight for v in reweighed(field, verdicts, Mixture(1.0, 1.0))[0]] == pytest.approx([0.75, 0.0, 0.25])


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
