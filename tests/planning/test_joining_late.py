"""When a turn ends because too few would join it."""

from __future__ import annotations

from symmoe.planning.turns import Turns
from tests.planning.test_turns import ids, serving, waiting


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
