from __future__ import annotations

import pickle  # noqa: TID251 - it measures here, and reads nothing
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.planning.turns import Durations, Turns, Waiting

PATIENCE, LONGEST = 5.0, 20.0


def turns(slots: int = 4, most: int = 1000, amortise: float = 4.0) -> Turns:
    return Turns(slots, most, PATIENCE, amortise)


def waiting(ident: str, expert: str, arrived: float = 0.0, key: str = "k", longest: float = LONGEST) -> Waiting:
    return Waiting(ident, expert, key, arrived, arrived + longest)


def ids(requests: list[Waiting]) -> list[str]:
    return [request.id for request in requests]


def serving(expert: str, cost: float = 1.0, now: float = 0.0, slots: int = 4) -> Turns:
    """Turns with an expert ready, every switch being known to cost so much."""
    made = turns(slots)
    for name in ("a", "b", "c"):
        made.loaded(name, cost, now)
    made.loaded(expert, cost, now)
    return made


def test_the_first_request_makes_its_expert_ready_and_begins() -> None:
    made = turns()
    made.arrive(waiting("1", "a"))
    assert made.begin(0.0) == []
    assert made.switch(0.0) == "a"
    made.loaded("a", 0.5, 0.5)
    assert ids(made.begin(0.5)) == ["1"]
    assert made.switch(0.5) is None


def test_a_request_for_the_resident_expert_joins_those_that_run() -> None:
    made = serving("a")
    made.arrive(waiting("1", "a"))
    made.begin(0.0)
    made.arrive(waiting("2", "a", 0.1))
    assert ids(made.begin(0.1)) == ["2"]
    assert made.running == 2


def test_no_more_than_the_slots_run_at_once() -> None:
    made = serving("a", slots=2)
    for number in range(3):
        made.arrive(waiting(str(number), "a"))
    assert ids(made.begin(0.0)) == ["0", "1"]
    made.leave("0")
    assert ids(made.begin(0.0)) == ["2"]


def test_others_wait_until_the_switch_is_paid_for_then_nothing_more_begins_and_what_runs_is_finished() -> None:
    made = serving("a", cost=1.0)
    made.arrive(waiting("1", "a"))
    made.begin(0.0)
    made.arrive(waiting("2", "b", 0.5))
    made.arrive(waiting("3", "a", 3.9))
    assert ids(made.begin(3.9)) == ["3"]
    made.arrive(waiting("4", "a", 4.1))
    assert made.begin(4.1) == []
    assert made.switch(4.1) is None
    made.leave("1")
    made.leave("3")
    assert made.switch(4.1) == "b"


def test_an_expert_without_work_gives_way_at_once() -> None:
    made = serving("a")
    made.arrive(waiting("1", "b"))
    assert made.switch(0.0) == "b"


def test_who_lost_patience_ends_the_turn_early_but_not_before_it_was_worth_its_switch() -> None:
    made = turns(amortise=100.0)
    for name in ("b", "a"):
        made.loaded(name, 2.0, 0.0)
    made.arrive(waiting("1", "a"))
    made.begin(0.0)
    made.arrive(waiting("2", "b", -PATIENCE))
    made.arrive(waiting("3", "a", 1.9))
    assert ids(made.begin(1.9)) == ["3"]
    made.arrive(waiting("4", "a", 2.0))
    assert made.begin(2.0) == []


def test_the_expert_that_more_wait_for_comes_first_unless_somebody_lost_patience() -> None:
    made = serving("a")
    made.arrive(waiting("1", "b", 0.0))
    for number in range(2, 5):
        made.arrive(waiting(str(number), "c", 0.5))
    assert made.switch(1.0) == "c"
    assert made.switch(PATIENCE + 0.1) == "b"


def test_a_cheap_switch_is_preferred_to_a_dear_one() -> None:
    made = turns()
    for name, cost in (("b", 9.0), ("c", 0.5), ("a", 1.0)):
        made.loaded(name, cost, 0.0)
    made.arrive(waiting("1", "b"))
    made.arrive(waiting("2", "c"))
    assert made.switch(1.0) == "c"


def test_a_key_that_floods_one_expert_has_no_more_votes_than_others() -> None:
    made = serving("a")
    for number in range(50):
        made.arrive(waiting(f"flood {number}", "b", 0.0, "greedy"))
    made.arrive(waiting("1", "c", 0.0, "one"))
    made.arrive(waiting("2", "c", 0.0, "two"))
    assert made.switch(1.0) == "c"


def test_keys_share_the_slots_evenly_however_many_requests_they_send() -> None:
    made = serving("a", slots=4)
    for number in range(20):
        made.arrive(waiting(f"flood {number}", "a", 0.0, "greedy"))
    for number in range(2):
        made.arrive(waiting(f"few {number}", "a", 1.0, "modest"))
    assert Counter(each.key for each in made.begin(1.0)) == {"greedy": 2, "modest": 2}


def test_a_key_that_was_away_has_saved_up_nothing() -> None:
    made = serving("a", slots=1)
    for number in range(10):
        made.arrive(waiting(f"old {number}", "a", 0.0, "old"))
    for number in range(4):
        made.begin(0.0)
        made.leave(f"old {number}")
    for number in range(4):
        made.arrive(waiting(f"new {number}", "a", 1.0, "new"))
    begun = []
    for _ in range(4):
        (each,) = made.begin(1.0)
        made.leave(each.id)
        begun.append(each.key)
    assert Counter(begun) == {"old": 2, "new": 2}


def test_a_full_queue_turns_the_newest_of_the_greediest_key_away() -> None:
    made = turns(most=3)
    for number in range(3):
        assert made.arrive(waiting(str(number), "a", float(number), "greedy")) is None
    out = made.arrive(waiting("modest", "a", 3.0, "modest"))
    assert out is not None
    assert out.id == "2"
    again = made.arrive(waiting("3", "a", 4.0, "greedy"))
    assert again is not None
    assert again.id == "3"


def test_a_request_that_leaves_is_neither_begun_nor_counted() -> None:
    made = serving("a")
    made.arrive(waiting("1", "b"))
    made.leave("1")
    assert made.switch(100.0) is None
    assert made.waiting == {}
    made.leave("1")


def test_an_expert_that_cannot_be_made_ready_costs_only_those_who_wait_for_it() -> None:
    made = serving("a")
    made.arrive(waiting("1", "b"))
    made.arrive(waiting("2", "c"))
    assert ids(made.failed("b")) == ["1"]
    assert made.resident is None
    assert made.switch(0.0) == "c"


def test_a_lost_engine_gives_back_what_ran_and_keeps_what_waits() -> None:
    made = serving("a", slots=1)
    made.arrive(waiting("1", "a"))
    made.arrive(waiting("2", "a"))
    made.begin(0.0)
    assert ids(made.lost()) == ["1"]
    assert made.running == 0
    assert made.switch(0.0) == "a"


def test_what_is_overdue_is_taken_out_at_its_time_and_not_before() -> None:
    made = turns()
    made.arrive(waiting("1", "a", longest=2.0))
    made.arrive(waiting("2", "a", longest=3.0))
    assert made.next_due() == 2.0
    assert made.overdue(1.9) == []
    assert ids(made.overdue(2.0)) == ["1"]


def test_the_wait_is_judged_by_the_requests_that_began_last() -> None:
    made = serving("a", slots=1)
    for number in range(4):
        made.arrive(waiting(str(number), "a"))
    for number in range(3):
        made.begin(2.0 * number)
        made.leave(str(number))
    assert made.wait() == pytest.approx(2.0)


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 30), st.sampled_from("abcd"), st.sampled_from("xyz"), st.floats(0.01, 3)),
    min_size=1,
    max_size=60,
)


class Simulated:
    """An engine on a clock of its own: so many seconds for a switch, and for each request what it says."""

    def __init__(self, made: Turns, arrivals: list[tuple[float, str, str, float]], switch: float) -> None:
        self.turns, self.switch = made, switch
        self.coming = sorted((when, str(n), expert, key, work) for n, (when, expert, key, work) in enumerate(arrivals))
        self.work = {ident: work for _, ident, _, _, work in self.coming}
        self.now = 0.0
        self.ends: dict[str, float] = {}
        self.begun: dict[str, float] = {}
        self.late: dict[str, float] = {}
        self.switches = 0

    def run(self) -> None:
        while self.coming or self.turns.running or self.turns.waiting:
            self.arrive()
            self.late |= {each.id: self.now - each.arrived for each in self.turns.overdue(self.now)}
            expert = self.turns.switch(self.now)
            if expert is not None:
                self.switches += 1
                self.now += self.switch
                self.turns.loaded(expert, self.switch, self.now)
                continue
            for each in self.turns.begin(self.now):
                assert each.expert == self.turns.resident
                self.begun[each.id] = self.now - each.arrived
                self.ends[each.id] = self.now + self.work[each.id]
            self.forward()

    def arrive(self) -> None:
        while self.coming and self.coming[0][0] <= self.now:
            when, ident, expert, key, _ = self.coming.pop(0)
            assert self.turns.arrive(Waiting(ident, expert, key, when, when + LONGEST)) is None

    def forward(self) -> None:
        """To the next thing that happens: an arrival, an end, or a tenth of a second while requests run or wait."""
        happening = [when for when, *_ in self.coming[:1]] + list(self.ends.values())
        soon = [self.now + 0.1] if self.turns.waiting else []
        self.now = max(self.now, min(happening + soon))
        for ident in [ident for ident, end in self.ends.items() if end <= self.now]:
            del self.ends[ident]
            self.turns.leave(ident, self.now)


@given(ARRIVALS, st.floats(0.01, 2), st.integers(1, 8))
def test_every_request_begins_once_or_is_turned_away_in_time(
    arrivals: list[tuple[float, str, str, float]], switch: float, slots: int
) -> None:
    run = Simulated(turns(slots), arrivals, switch)
    run.run()
    assert run.begun.keys() | run.late.keys() == {str(n) for n in range(len(arrivals))}
    assert run.begun.keys().isdisjoint(run.late)
    slack = max(0.2, switch + 0.1)  # nothing is looked at while a switch goes on
    assert all(waited <= LONGEST + slack for waited in (*run.begun.values(), *run.late.values()))


@given(st.integers(0, 1000))
def test_under_load_that_the_engine_can_bear_nobody_is_turned_away_whatever_the_others_ask(seed: int) -> None:
    import random

    draw = random.Random(seed)
    flood = [(draw.uniform(0, 30), "a", "greedy", 0.3) for _ in range(150)]
    rare = [(draw.uniform(0, 30), expert, "rare", 0.3) for expert in "bcd" for _ in range(2)]
    run = Simulated(turns(8), flood + rare, 0.5)
    run.run()
    assert run.late == {}
    others = [run.begun[str(n)] for n in range(len(flood), len(flood) + len(rare))]
    assert max(others) < PATIENCE + 3


def test_grouping_switches_far_less_often_than_first_come_first_served() -> None:
    arrivals = [(0.02 * n, "abcd"[n % 4], "k", 0.2) for n in range(400)]
    run = Simulated(turns(64), arrivals, 0.5)
    run.run()
    assert run.late == {}
    assert run.switches < 400 / 10


def test_an_expert_that_became_another_is_made_ready_again_once_what_runs_is_finished() -> None:
    made = serving("a")
    made.arrive(waiting("1", "a"))
    assert ids(made.begin(0.0)) == ["1"]
    made.changed("b")
    assert made.resident == "a"
    made.changed("a")
    made.arrive(waiting("2", "a"))
    assert made.begin(0.0) == []
    assert made.switch(0.0) is None
    made.leave("1")
    assert made.switch(0.0) == "a"


def test_keys_that_came_once_are_forgotten_while_others_are_always_there() -> None:
    made, most = serving("a", slots=1), 0
    made.arrive(waiting("0", "a", 0.0, "key 0"))
    for number in range(1, 3000):
        made.arrive(waiting(str(number), "a", float(number), f"key {number}"))
        (begun,) = made.begin(float(number))
        assert begun.id == str(number - 1)
        made.leave(begun.id, float(number))
        most = max(most, len(pickle.dumps(made))) if number < 1000 else most
    assert len(pickle.dumps(made)) <= most + 1000  # some digits more, and no key


def busy(made: Turns, waiting_for_b: int, now: float = 0.0) -> Turns:
    """Turns whose requests took a second each; one for a has begun and is over, others wait for b."""
    for number in range(20):
        made.arrive(waiting(f"earlier {number}", "a", now))
        made.begin(now)
        made.leave(f"earlier {number}", now + 1.0)
    for number in range(waiting_for_b):
        made.arrive(waiting(f"b{number}", "b", now))
    return made


def test_where_few_would_join_and_many_wait_the_turn_ends_early() -> None:
    for waiting_for_b, over in ((2, False), (8, True)):
        made = busy(serving("a", cost=1.0, slots=8), waiting_for_b)
        made.arrive(waiting("late", "a", 1.0))
        assert (made.begin(1.0) == []) is over
        assert made.switch(1.0) == ("b" if over else None)


def test_who_joins_just_after_another_holds_up_nobody() -> None:
    made = busy(serving("a", cost=1.0, slots=16), 8)
    made.loaded("a", 1.0, 0.0)
    made.arrive(waiting("first", "a", 0.1))
    assert ids(made.begin(0.1)) == ["first"]
    made.arrive(waiting("second", "a", 0.2))
    assert ids(made.begin(0.2)) == ["second"]
    made.arrive(waiting("third", "a", 1.1))
    assert made.begin(1.1) == []


def test_a_turn_that_has_just_begun_serves_who_it_is_for_however_many_wait_elsewhere() -> None:
    made = busy(serving("a", cost=1.0, slots=16), 16)
    made.arrive(waiting("one", "c", 1.0))
    made.loaded("c", 1.0, 2.0)
    assert ids(made.begin(2.0)) == ["one"]


def test_before_anything_was_seen_nothing_is_known() -> None:
    assert Durations().of(3) is None


def test_one_observation_says_the_same_of_every_count() -> None:
    seen = Durations()
    seen.saw(4, 2.0)
    assert seen.of(1) == seen.of(30) == 2.0


def test_a_line_is_found_and_followed_when_it_changes() -> None:
    seen = Durations()
    for base, slope in ((0.3, 0.02), (1.0, 0.1)):
        for number in range(600):
            count = 1 + number % 30
            seen.saw(count, base + slope * count)
        assert seen.of(1) == pytest.approx(base + slope, rel=0.02)
        assert seen.of(30) == pytest.approx(base + 30 * slope, rel=0.02)


@given(st.lists(st.tuples(st.floats(1, 64), st.floats(0, 100)), min_size=1, max_size=50), st.integers(1, 64))
def test_it_never_falls_nor_goes_below_zero(seen: list[tuple[float, float]], count: int) -> None:
    line = Durations()
    for each in seen:
        line.saw(*each)
    here, there = line.of(count), line.of(count + 1)
    assert here is not None
    assert there is not None
    assert -1e-9 <= here <= there + 1e-9
