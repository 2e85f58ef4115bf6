"""What an idle worker should take from a busy one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Cost(Protocol):
    """What an expert is predicted to cost: making it ready, and each of its calls. `planning.costs` has such values."""

    @property
    def load(self) -> float:
        """Making it ready on a worker that has another expert."""
        ...

    @property
    def request(self) -> float:
        """One call among many."""
        ...


@dataclass(frozen=True, slots=True)
class Counted:
    """Costs where nothing was measured: calls are counted, and a load is taken to be worth four of them."""

    load: float = 4.0
    request: float = 1.0


@dataclass(frozen=True, slots=True)
class Queued:
    """A step that was not begun."""

    expert: str
    calls: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a worker has yet to do: the rest of the step that it runs, in the unit of the costs, and its queue."""

    running: float
    queued: Sequence[Queued]

    @property
    def remaining(self) -> float:
        """All of it."""
        return self.running + sum(step.cost.load + step.calls * step.cost.request for step in self.queued)


@dataclass(frozen=True, slots=True)
class Theft:
    """The last `calls` calls of the step at `place` of a queue."""

    place: int
    calls: int


def best_theft(victim: Backlog, resident: str) -> Theft | None:
    """The theft after which the later of the two workers ends soonest; None if none pays.

    A whole step must let the two end earlier; half a step, which costs one load more than the plan, earlier by more
    than that load. `resident` is the expert that the thief has ready and need not load. Among equals: the cheapest
    load, a whole step, the one that the victim would come to last.
    """
    thefts = [_judge(victim, place, calls, resident) for place, calls in _possible(victim.queued)]
    paying = [(key, theft) for key, theft in thefts if key is not None]
    return min(paying, key=lambda each: each[0])[1] if paying else None


def _possible(queued: Sequence[Queued]) -> Iterator[tuple[int, int]]:
    for place, step in enumerate(queued):
        yield place, step.calls
        if step.calls > 1:
            yield place, step.calls // 2


def _judge(
    victim: Backlog, place: int, calls: int, resident: str
) -> tuple[tuple[float, float, bool, int] | None, Theft]:
    """How good a theft is, smaller being better, or None for one that does not pay."""
    step = victim.queued[place]
    half = calls < step.calls
    load = 0.0 if step.expert == resident else step.cost.load
    work = calls * step.cost.request
    victim_ends = victim.remaining - work - (0.0 if half else step.cost.load)
    ends = max(victim_ends, load + work)
    pays = victim.remaining - ends > (load if half else 0.0)
    return (ends, load, half, -place) if pays else None, Theft(place, calls)
