"""Whose turn it is on an engine that answers requests as they come: bookkeeping only, no clock, thread or engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

UNKNOWN_COST = 1.0
_FORGETTING = 0.3


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request for an expert: whose it is, when it came, and when at the latest it must begin (seconds, one clock)."""

    id: str
    expert: str
    key: str
    arrived: float
    due: float


class Turns:
    """Decides which requests begin, and when the engine goes over to which expert.

    An expert's turn goes on while it has work, but once others wait no longer than `amortise` times what the switch to
    the next one costs, so that at most `1 / (1 + amortise)` of the time goes into switching under load. A request that
    has waited for `patience` seconds ends the turn as soon as that has lasted for one such cost. What is running is
    always finished first. The next expert is the one with the oldest request past its patience, else the one with
    most votes for each second that switching to it costs: each key has one vote, and splits it over the experts that
    it waits for by the time it has waited for them.

    Within an expert's turn, `slots` requests run at once; the next to begin is the oldest of the key that has begun
    fewest. Of more than `most` waiting requests one is turned away: the newest of the key with most of them.
    """

    def __init__(self, slots: int, most: int, patience: float, amortise: float = 4.0) -> None:
        self._slots, self._most, self._patience, self._amortise = slots, most, patience, amortise
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, Waiting] = {}
        self._served: Counter[str] = Counter()
        self._costs: dict[str, float] = {}
        self._resident: str | None = None
        self._since = 0.0
        self._between: float | None = None
        self._last_begun: float | None = None

    @property
    def resident(self) -> str | None:
        """The expert whose turn it is."""
        return self._resident

    @property
    def waiting(self) -> Counter[str]:
        """How many requests wait for each expert."""
        return Counter(each.expert for each in self._waiting.values())

    @property
    def running(self) -> int:
        """How many requests are running."""
        return len(self._running)

    def arrive(self, request: Waiting) -> Waiting | None:
        """Put a request into the queue; where that is full, the one that is turned away for it, which may be itself."""
        self._enter(request.key)
        self._waiting[request.id] = request
        if len(self._waiting) <= self._most:
            return None
        by_key = Counter(each.key for each in self._waiting.values())
        most = max(by_key.values())
        crowd = {key for key, count in by_key.items() if count == most}
        theirs = [each for each in self._waiting.values() if each.key == min(crowd)]
        turned_away = request if request.key in crowd else max(theirs, key=lambda each: each.arrived)
        del self._waiting[turned_away.id]
        return turned_away

    def leave(self, ident: str) -> None:
        """A request is over: finished, cancelled or given up."""
        self._waiting.pop(ident, None)
        self._running.pop(ident, None)

    def overdue(self, now: float) -> list[Waiting]:
        """Take out the requests that should have begun by now."""
        late = [each for each in self._waiting.values() if each.due <= now]
        for each in late:
            del self._waiting[each.id]
        return late

    def next_due(self) -> float | None:
        """When the first of those that wait becomes overdue."""
        return min((each.due for each in self._waiting.values()), default=None)

    def begin(self, now: float) -> list[Waiting]:
        """The requests of the resident expert that begin now."""
        if self._resident is None or self._is_over(now):
            return []
        own = sorted((w for w in self._waiting.values() if w.expert == self._resident), key=lambda w: w.arrived)
        begun = list(self._fairly(own, self._slots - len(self._running)))
        for each in begun:
            del self._waiting[each.id]
            self._running[each.id] = each
            self._note_begun(now)
        return begun

    def switch(self, now: float) -> str | None:
        """The expert to make ready now, or None: the turn goes on, or what is running must be finished first."""
        if self._running or not self._is_over(now):
            return None
        return self._next(now)

    def loaded(self, expert: str, seconds: float, now: float) -> None:
        """The expert is ready, after so many seconds, and its turn begins."""
        known = self._costs.get(expert)
        self._costs[expert] = seconds if known is None else known + _FORGETTING * (seconds - known)
        self._resident, self._since = expert, now

    def changed(self, expert: str) -> None:
        """The expert is another one from now on: if it is ready, it must be made ready again."""
        if self._resident == expert:
            self._resident = None

    def failed(self, expert: str) -> list[Waiting]:
        """The expert could not be made ready, so none is; take out the requests that wait for it."""
        self._resident = None
        given_up = [each for each in self._waiting.values() if each.expert == expert]
        for each in given_up:
            del self._waiting[each.id]
        return given_up

    def lost(self) -> list[Waiting]:
        """The engine is gone: no expert is ready. Take out the requests that were running."""
        self._resident = None
        running = list(self._running.values())
        self._running.clear()
        return running

    def wait(self) -> float:
        """In how many seconds a request that came now would begin, judged by those that began last."""
        return len(self._waiting) * (self._between or 0.0)

    def _is_over(self, now: float) -> bool:
        """Whether nothing more of the resident expert begins."""
        following = self._next(now)
        if following is None:
            return False
        if self._resident is None:
            return True
        if not self._running and not any(w.expert == self._resident for w in self._waiting.values()):
            return True
        turn, cost = now - self._since, self._cost(following)
        return turn >= self._amortise * cost or (turn >= cost and bool(self._impatient(now)))

    def _next(self, now: float) -> str | None:
        """The expert whose turn comes after this one; None where nobody waits for another."""
        impatient = self._impatient(now)
        if impatient:
            return min(impatient, key=lambda each: (each.arrived, each.id)).expert
        votes = self._votes(now)
        return max(votes, key=lambda expert: (votes[expert] / self._cost(expert), expert), default=None)

    def _impatient(self, now: float) -> list[Waiting]:
        return [w for w in self._others() if now >= w.arrived + self._patience]

    def _others(self) -> Iterator[Waiting]:
        return (each for each in self._waiting.values() if each.expert != self._resident)

    def _votes(self, now: float) -> dict[str, float]:
        waited: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for each in self._others():
            waited[each.key][each.expert] += max(now - each.arrived, 0.0) + 1e-3  # who has only just come counts too
        votes: dict[str, float] = defaultdict(float)
        for experts in waited.values():
            for expert, seconds in experts.items():
                votes[expert] += seconds / sum(experts.values())
        return votes

    def _cost(self, expert: str) -> float:
        known = self._costs.get(expert)
        if known is None:
            known = sum(self._costs.values()) / len(self._costs) if self._costs else UNKNOWN_COST
        return max(known, 1e-3)

    def _fairly(self, queue: list[Waiting], room: int) -> Iterator[Waiting]:
        for _ in range(min(room, len(queue))):
            first = min(queue, key=lambda each: self._served[each.key])
            queue.remove(first)
            self._served[first.key] += 1
            yield first

    def _enter(self, key: str) -> None:
        """A key that comes back has saved up nothing: it stands where the least served of those present stands."""
        present = {each.key for each in (*self._waiting.values(), *self._running.values())}
        if not present:
            self._served.clear()
        elif key not in present:
            self._served[key] = max(self._served[key], min(self._served[other] for other in present))

    def _note_begun(self, now: float) -> None:
        if self._last_begun is not None:
            between = now - self._last_begun
            known = self._between
            self._between = between if known is None else known + _FORGETTING * (between - known)
        self._last_begun = now
