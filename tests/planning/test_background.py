"""Requests in the background: after all others, but not never."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.planning.turns import STARVING, Turns, Waiting
from tests.planning.test_turns import PATIENCE, ids, serving, turns, waiting

LONG = 3600.0


def lines(expert: str, count: int, arrived: float = 0.0, key: str = "batch:1") -> list[Waiting]:
    return [Waiting(f"line {expert}{n}", expert, key, arrived, arrived + LONG, True) for n in range(count)]


def arrived(made: Turns, *requests: Waiting) -> Turns:
    for each in requests:
        assert made.arrive(each) is None
    return made


def test_with_nobody_else_there_the_background_has_every_slot_and_takes_turns_as_others_do() -> None:
    made = arrived(serving("a"), *lines("a", 6), *lines("b", 2))
    assert len(made.begin(0.0)) == 4
    assert made.switch(PATIENCE + 1) is None  # what runs is finished first
    for number in range(4):
        made.leave(f"line a{number}")
    assert made.begin(PATIENCE + 1) == []
    assert made.switch(PATIENCE + 1) == "b"


def test_of_one_expert_the_background_begins_last_however_long_it_waits() -> None:
    made = arrived(serving("a", slots=2), *lines("a", 2), waiting("1", "a", 50.0), waiting("2", "a", 50.0))
    assert ids(made.begin(50.0)) == ["1", "2"]


def test_an_expert_that_only_the_background_wants_is_never_the_next_while_another_is_wanted() -> None:
    made = arrived(serving("a"), *lines("b", 50), waiting("1", "c", 40.0))
    assert made.switch(40.0) == "c"


def test_a_turn_of_the_background_ends_as_soon_as_anybody_waits_for_another_expert() -> None:
    made = arrived(serving("a", cost=100.0, slots=2), *lines("a", 5))
    assert len(made.begin(0.0)) == 2
    arrived(made, waiting("1", "b", 0.1))
    made.leave("line a0")
    assert made.begin(0.1) == []
    made.leave("line a1")
    assert made.switch(0.1) == "b"


def test_the_background_ends_no_turn_in_which_others_run() -> None:
    made = arrived(serving("a"), waiting("1", "a"))
    made.begin(0.0)
    arrived(made, *lines("b", 5), waiting("2", "a", 30.0))
    assert ids(made.begin(30.0)) == ["2"]


def test_a_quarter_of_the_slots_is_left_free_for_a_while_after_somebody_came() -> None:
    made = arrived(serving("a", slots=8), waiting("1", "a", 1.0), *lines("a", 20, 1.0))
    assert len(made.begin(1.0)) == 1 + 5
    arrived(made, waiting("2", "a", 2.0), waiting("3", "a", 2.0))
    assert ids(made.begin(2.0)) == ["2", "3"]
    assert made.begin(1.9 + PATIENCE) == []
    made.leave("1")
    made.leave("2")
    assert len(made.begin(2.1 + PATIENCE)) == 2


def test_a_full_queue_turns_the_background_away_first() -> None:
    made = arrived(turns(most=3), *lines("a", 3))
    out = [made.arrive(waiting(str(n), "a", 1.0, "greedy")) for n in range(4)]
    assert [each and each.id for each in out] == ["line a0", "line a1", "line a2", "3"]
    late = lines("b", 1, 2.0)[0]
    assert made.arrive(late) is late


def test_the_wait_that_others_are_told_of_is_not_that_of_the_background() -> None:
    made = arrived(serving("a", slots=1), *[waiting(str(n), "a") for n in range(3)], *lines("a", 50))
    for number in range(2):
        made.begin(2.0 * number)
        made.leave(str(number))
    assert made.wait() == 2.0


def test_what_waits_for_the_background_is_prepared_last() -> None:
    made = arrived(turns(), *lines("a", 9), *lines("b", 3), waiting("1", "c"))
    assert made.wanted == ["c", "a", "b"]


def test_once_a_minute_a_few_that_have_waited_for_a_minute_are_no_longer_in_the_background() -> None:
    made = serving("a", slots=8)
    arrived(made, *lines("b", 5, 1.0), *lines("c", 5, 0.5))

    def play(now: float) -> list[str]:
        """One request for `a` comes each time and is over at once."""
        arrived(made, waiting(f"{now}", "a", now, longest=LONG))
        expert = made.switch(now)
        if expert is not None:
            made.loaded(expert, 1.0, now)
        begun = made.begin(now)
        for each in begun:
            made.leave(each.id)
        return [each.id for each in begun if each.key == "batch:1"]

    taken = [(now, names) for now in range(270) if (names := play(float(now)))]
    assert [names for _, names in taken] == [
        ["line c0", "line c1"],
        ["line c2", "line c3"],
        ["line c4"],
        ["line b0", "line b1"],
    ]
    assert all(STARVING <= later - now <= STARVING + 3 for (now, _), (later, _) in pairwise([(0, []), *taken]))


def test_what_runs_in_the_background_gives_way_to_who_finds_no_place() -> None:
    made = serving("a", slots=3)
    for number, each in enumerate(lines("a", 3)):
        arrived(made, each)
        made.begin(number / 10)
    assert made.give_way(1.0) == []
    arrived(made, waiting("1", "a", 2.0), waiting("2", "a", 2.0))
    assert ids(made.give_way(2.0)) == ["line a2", "line a1"]  # those that began last have least to lose
    assert made.running == 1
    assert made.waiting["a"] == 4
    assert ids(made.begin(2.0)) == ["1", "2"]
    assert made.give_way(2.0) == []


def test_all_that_runs_in_the_background_gives_way_to_who_waits_for_another_expert() -> None:
    made = arrived(serving("a", slots=2), *lines("a", 2))
    made.begin(0.0)
    arrived(made, waiting("1", "b", 1.0))
    assert len(made.give_way(1.0)) == 2
    assert made.switch(1.0) == "b"


def test_nothing_gives_way_where_another_that_runs_keeps_the_engine_from_going_over() -> None:
    made = arrived(serving("a", slots=2), waiting("1", "a"), *lines("a", 1))
    assert len(made.begin(0.0)) == 2
    arrived(made, waiting("2", "b", 1.0))
    assert made.give_way(PATIENCE + 20) == []


def test_a_request_gives_way_twice_and_then_runs_to_its_end() -> None:
    made = arrived(serving("a", slots=1), *lines("a", 1))
    for number in range(3):
        assert ids(made.begin(10.0 * number)) == ["line a0"]
        arrived(made, waiting(f"{number}", "a", 10.0 * number))
        assert ids(made.give_way(10.0 * number)) == (["line a0"] if number < 2 else [])
        if number < 2:
            assert ids(made.begin(10.0 * number)) == [f"{number}"]
            made.leave(f"{number}")


CROWD = st.lists(  # all of it is over within a minute
    st.tuples(st.floats(0, 10), st.sampled_from("abcd"), st.booleans(), st.floats(0.01, 0.5)), min_size=1, max_size=40
)


class Mixed:
    """An engine on a clock of its own that checks, whenever something begins, that nobody better was left waiting."""

    def __init__(self, coming: list[tuple[float, str, bool, float]], slots: int, switch: float) -> None:
        self.turns, self.seconds = turns(slots), switch
        named = [(when, f"{n}", expert, late, work) for n, (when, expert, late, work) in enumerate(coming)]
        self.coming = sorted(named)
        self.work = {ident: work for _, ident, _, _, work in named}
        self.online: dict[str, tuple[str, float]] = {}
        self.begun: dict[str, float] = {}
        self.ends: dict[str, float] = {}
        self.now = 0.0

    def run(self) -> None:
        while self.coming or self.turns.running or self.turns.waiting:
            while self.coming and self.coming[0][0] <= self.now:
                when, ident, expert, background, _ = self.coming.pop(0)
                key = "batch:1" if background else "k"
                self.turns.arrive(Waiting(ident, expert, key, when, when + LONG, background))
                if not background:
                    self.online[ident] = expert, when
            self.step()

    def step(self) -> None:
        for each in self.turns.give_way(self.now):
            assert self.online, "something gave way to nobody"
            del self.ends[each.id], self.begun[each.id]
        expert = self.turns.switch(self.now)
        if expert is not None:
            wanted = {name for name, _ in self.online.values()}
            assert expert in wanted or not wanted, "a switch for the background while another expert was wanted"
            self.now += self.seconds
            self.turns.loaded(expert, self.seconds, self.now)
            return
        for each in sorted(self.turns.begin(self.now), key=lambda each: each.background):
            self.online.pop(each.id, None)
            assert not (each.background and self.online), "the background began while somebody else waited"
            self.begun[each.id] = self.now - each.arrived
            self.ends[each.id] = self.now + self.work[each.id]
        soon = [self.now + 0.1] if self.turns.waiting else []
        self.now = max(self.now, min([when for when, *_ in self.coming[:1]] + list(self.ends.values()) + soon))
        for ident in [ident for ident, end in self.ends.items() if end <= self.now]:
            del self.ends[ident]
            self.turns.leave(ident)


@given(CROWD, st.integers(1, 8), st.floats(0.01, 0.3))
def test_nothing_in_the_background_begins_or_is_switched_to_while_anybody_else_waits_and_all_of_it_ends(
    coming: list[tuple[float, str, bool, float]], slots: int, switch: float
) -> None:
    run = Mixed(coming, slots, switch)
    run.run()
    assert run.begun.keys() == set(run.work)


@settings(max_examples=20)
@given(st.integers(0, 300), st.integers(1, 8))
def test_the_background_goes_on_under_requests_that_never_end(seed: int, slots: int) -> None:
    """Ten minutes of more requests than the engine can bear, and each minute brings lines on."""
    draw = random.Random(seed)
    minutes, made = 10, turns(slots)
    made.loaded("a", 0.5, 0.0)
    for each in lines("c", 3) + lines("d", 3):
        made.arrive(each)
    now, number, ends, begun = 0.0, 0, dict[str, float](), dict[str, float]()
    while now < minutes * 60:
        while made.waiting.total() < 3 * slots + 6 - len(begun):
            number += 1
            made.arrive(Waiting(str(number), draw.choice("ab"), draw.choice("xy"), now, now + LONG))
        expert = made.switch(now)
        if expert is not None:
            now += 0.5
            made.loaded(expert, 0.5, now)
        for each in made.begin(now):
            ends[each.id] = now + draw.uniform(0.5, 2)
            if each.key == "batch:1":
                begun[each.id] = now
        now += 0.25
        for ident in [ident for ident, end in ends.items() if end <= now]:
            made.leave(ident)
            del ends[ident]
    assert len(begun) == 6
    a_minute = Counter(int(when // STARVING) for when in begun.values())
    assert max(a_minute.values()) <= 2 * max(1, slots // 4)
