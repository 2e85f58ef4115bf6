from __future__ import annotations

from dataclasses import replace

from symmoe.aggregation.choosing import best_aggregator, by_kind
from symmoe.types import ExpertProfile, Profiles, Tally
from tests.fakes import query


def profiles(**kinds: dict[str, Tally]) -> Profiles:
    return Profiles({name: ExpertProfile(name, {}, Tally(1, 1), aggregation=own) for name, own in kinds.items()})  # type: ignore[arg-type]


def test_the_best_aggregator_is_told_by_kind_and_few_tasks_count_for_little() -> None:
    known = profiles(a={"text": Tally(8, 2)}, b={"text": Tally(1, 0), "number": Tally(9, 1)}, c={})
    assert best_aggregator(known, "text") == "a"
    assert best_aggregator(known, "number") == "b"
    assert best_aggregator(known, "math") is None
    assert best_aggregator(known) == "b"
    assert best_aggregator(profiles(a={}, b={})) is None


def test_each_kind_of_answer_has_its_aggregator_and_others_the_best_over_all() -> None:
    choose = by_kind(profiles(a={"text": Tally(8, 2)}, b={"text": Tally(1, 0), "number": Tally(9, 1)}), "c")
    asked = query("anything")
    assert [choose(replace(asked, kind=kind)) for kind in ("text", "number", "math", "auto")] == ["a", "b", "b", "b"]


def test_where_nobody_s_aggregation_was_measured_it_is_the_expert_named_for_that() -> None:
    assert by_kind(profiles(a={}, b={}), "b")(query("anything")) == "b"
