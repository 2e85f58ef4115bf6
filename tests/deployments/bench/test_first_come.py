"""First come, first served, as the benchmark has it."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.bench.first_come import FirstCome, Policy

from symmoe.planning.turns import Waiting


def queue(policy: Policy, experts: str, slots: int = 4) -> FirstCome:
    turns = FirstCome(slots, 1000, 5.0, 4.0)
    turns.policy = policy
    for number, expert in enumerate(experts):
        turns.arrive(Waiting(f"{number:03d}", expert, "key", float(number), 1e9))
    return turns


def steps(turns: FirstCome, experts: str) -> tuple[str, list[str]]:
    """The order in which experts are made ready, and the groups in which requests begin; each group then ends."""
    loads, groups, now = "", [], 1000.0
    while turns.waiting:
        now += 1
        expert = turns.switch(now)
        if expert is not None:
            turns.loaded(expert, 0.1, now)
            loads += expert
        begun = turns.begin(now)
        assert begun
        assert {each.expert for each in begun} == {turns.resident}
        groups.append("".join(each.expert for each in begun))
        for each in begun:
            turns.leave(each.id)
    return loads, groups


def test_requests_begin_as_they_came_and_only_neighbours_run_together() -> None:
    assert steps(queue("first_come", "aabab"), "aabab") == ("abab", ["aa", "b", "a", "b"])


def test_joined_the_oldest_takes_all_of_its_expert_with_it() -> None:
    assert steps(queue("first_come_joined", "aabab"), "aabab") == ("ab", ["aaa", "bb"])


def test_no_more_run_together_than_there_are_slots() -> None:
    assert steps(queue("first_come", "aaaaa", slots=2), "aaaaa")[1] == ["aa", "aa", "a"]


def test_while_one_runs_nobody_behind_another_expert_begins() -> None:
    turns = queue("first_come", "aba")
    turns.loaded("a", 0.1, 10.0)
    assert [each.id for each in turns.begin(10.0)] == ["000"]
    assert turns.begin(11.0) == []
    assert turns.switch(11.0) is None
    turns.leave("000")
    assert turns.switch(12.0) == "b"


@given(st.integers(0, 10_000), st.sampled_from(["turns", "first_come", "first_come_joined"]))
def test_everybody_is_served_under_every_policy(seed: int, policy: Policy) -> None:
    experts = "".join(Random(seed).choices("abc", k=Random(seed).randint(1, 30)))
    _, groups = steps(queue(policy, experts), experts)
    assert sorted("".join(groups)) == sorted(experts)


@given(st.integers(0, 10_000))
def test_first_come_keeps_the_order_of_arrival(seed: int) -> None:
    experts = "".join(Random(seed).choices("abc", k=Random(seed).randint(1, 30)))
    assert "".join(steps(queue("first_come", experts), experts)[1]) == experts
