"""Decides whose turn it is on an engine that answers requests as they come; has no clock, thread or engine itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

_OLDER = 0.02
_SPREAD = 0.05
"""Counts that vary less than this, relative to their mean and squared, tell nothing of a slope."""
UNKNOWN_COST = 1.0
STARVING = 60.0
_FORGETTING = 0.3
_LAGGING = 2.0
_KEYS = 256
_WAYS = 2
"""Times that a request in the background gives way: its work is lost each time, and it must end some day."""


class Durations:
    """A linear fit of seconds against how many requests ran at once, in which older observations weigh less.

    The slope is never negative, since one more request shortens none, and the fit is not negative at zero requests.
    """

    def __init__(self) -> None:
        self._means: tuple[float, float, float, float] | None = None

    def saw(self, count: float, seconds: float) -> None:
        """Note that a request took `seconds` while `count` ran on average, itself included."""
        seen = (count, seconds, count * count, count * seconds)
        if self._means is None:
            self._means = seen
        else:
            self._means = tuple(  # type: ignore[assignment]
                mean + _OLDER * (new - mean) for mean, new in zip(self._means, seen, strict=True)
            )

    def of(self, count: float) -> float | None:
        """The expected seconds of one of `count` requests; None before the first observation."""
        if self._means is None:
            return None
        counts, seconds, squares, products = self._means
        spread = squares - counts * counts
        slope = (products - counts * seconds) / spread if spread > _SPREAD * counts * counts else 0.0
        slope = min(max(slope, 0.0), seconds / counts)
        return seconds + slope * (count - counts)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request for an expert: the key it belongs to, when it arrived and when it must begin (seconds of one clock).

    One in the `background` yields to all others; `gave_way` counts how often it was interrupted for them.
    """

    id: str
    expert: str
    key: str
    arrived: float
    due: float
    background: bool = False
    gave_way: int = 0


class Turns:
    """Decides which requests begin, and when the engine switches to which expert.

    An expert's turn lasts while it has work. If others wait, it lasts at most `amortise` times the cost of switching to
    the next expert, so that under load at most `1 / (1 + amortise)` of the time is spent switching. A request that has
    waited `patience` seconds ends the turn once that has lasted one such cost. A turn also ends where switching would
    serve more than twice as many requests a second as going on, judged by recent durations. Running requests always
    finish first.

    The next expert is the one with the oldest request past its patience; otherwise the one with most votes per second
    of switching cost. Each key has one vote, split over the experts it waits for in proportion to the time it has
    waited.

    Within a turn at most `slots` requests run at once; the next to begin is the oldest of the key that has begun
    fewest. When more than `most` requests wait, one is turned away: the newest of the key that has most.

    Background requests count only while no others wait. Then the rules above hold for them, except that they do not end
    a turn in which others run, and that they leave a quarter of the slots free until `patience` seconds after the last
    other request arrived. They are turned away first, and running ones give way (`give_way`). At most once in
    `STARVING` seconds, the one that has waited longest, if longer than that, becomes an ordinary request, together with
    those for the same expert that have waited as long; at most a quarter of the slots.
    """

    def __init__(self, slots: int, most: int, patience: float, amortise: float = 4.0) -> None:
        self._slots, self._most, self._patience, self._amortise = slots, most, patience, amortise
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, Waiting] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._durations = Durations()
        self._joined: float | None = None
        self._served: Counter[str] = Counter()
        self._costs: dict[str, float] = {}
        self._resident: str | None = None
        self._since = 0.0
        self._between: float | None = None
        self._last_begun: float | None = None
        self._others_came, self._promoted = -patience, -STARVING

    @property
    def resident(self) -> str | None:
        """The expert whose turn it is."""
        return self._resident

    @property
    def waiting(self) -> Counter[str]:
        """How many requests wait for each expert."""
        return Counter(each.expert for each in self._waiting.values())

    @property
    def wanted(self) -> list[str]:
        """The experts that requests wait for, most requests first; background requests only break ties."""
        others = Counter(each.expert for each in self._waiting.values() if not each.background)
        waiting = self.waiting
        return sorted(waiting, key=lambda expert: (others[expert], waiting[expert]), reverse=True)

    @property
    def running(self) -> int:
        """How many requests are running."""
        return len(self._running)

    def arrive(self, request: Waiting) -> Waiting | None:
        """Queue a request. Returns the one that is turned away if the queue is full, which may be the same."""
        self._enter(request.key)
        self._waiting[request.id] = request
        if not request.background:
            self._others_came = max(self._others_came, request.arrived)
        if len(self._waiting) <= self._most:
            return None
        least = [each for each in self._waiting.values() if each.background] or list(self._waiting.values())
        by_key = Counter(each.key for each in least)
        most = max(by_key.values())
        crowd = {key for key, count in by_key.items() if count == most}
        theirs = [each for each in least if each.key == min(crowd)]
        turned_away = request if request.key in crowd else max(theirs, key=lambda each: each.arrived)
        del self._waiting[turned_away.id]
        return turned_away

    def leave(self, ident: str, finished: float | None = None) -> None:
        """Remove a request that was cancelled, given up, or finished at time `finished`."""
        began, beside = self._began.pop(ident, (None, 0))
        if began is not None and finished is not None:
            self._durations.saw((beside + len(self._running)) / 2, finished - began)
        self._waiting.pop(ident, None)
        self._running.pop(ident, None)

    def overdue(self, now: float) -> list[Waiting]:
        """Remove and return the requests that should have begun by now."""
        late = [each for each in self._waiting.values() if each.due <= now]
        for each in late:
            del self._waiting[each.id]
        return late

    def next_due(self) -> float | None:
        """The time at which the first waiting request becomes overdue; None if none waits."""
        return min((each.due for each in self._waiting.values()), default=None)

    def begin(self, now: float) -> list[Waiting]:
        """Begin requests of the resident expert, as the rules allow, and return them."""
        self._promote(now)
        if self._resident is None or self._is_over(now):
            return []
        waiting = sorted((w for w in self._waiting.values() if w.expert == self._resident), key=lambda w: w.arrived)
        room = self._slots - len(self._running)
        begun = list(self._fairly([w for w in waiting if not w.background], room))
        if len(begun) == sum(not w.background for w in self._waiting.values()):  # nobody else waits, here or elsewhere
            begun += self._fairly([w for w in waiting if w.background], room - len(begun) - self._kept_free(now))
        self._start(begun, now)
        return begun

    def _start(self, begun: Sequence[Waiting], now: float) -> None:
        """Those that `begun` wait no longer."""
        for each in begun:
            del self._waiting[each.id]
            self._running[each.id] = each
            self._note_begun(now)
        for each in begun:
            self._began[each.id] = now, len(self._running)
            self._joined = now

    def give_way(self, now: float) -> list[Waiting]:
        """Interrupt background requests in favour of others: they are returned, and wait again.

        If more requests wait for the resident expert than slots are free, the background requests that began last stop.
        If the turn is over, all stop, provided nothing else runs. Each request gives way twice at most.
        """
        if all(each.background for each in self._waiting.values()):
            return []
        running = sorted(self._running.values(), key=lambda each: self._began[each.id], reverse=True)
        able = [each for each in running if each.background and each.gave_way < _WAYS]
        if self._is_over(now):
            leaving = able if len(able) == len(running) else []
        else:
            waiting_count = sum(w.expert == self._resident and not w.background for w in self._waiting.values())
            leaving = able[: max(0, waiting_count + len(running) - self._slots)]
        for each in leaving:
            self.leave(each.id)
            self._served[each.key] -= 1
            self._waiting[each.id] = replace(each, gave_way=each.gave_way + 1)
        return leaving

    def switch(self, now: float) -> str | None:
        """The expert to make ready now; None while the turn goes on or requests must finish first."""
        self._promote(now)
        if self._running or not self._is_over(now):
            return None
        return self._next(now)

    def loaded(self, expert: str, seconds: float, now: float, once: bool = False) -> None:
        """Note that the expert is ready, which begins its turn. `seconds` paid only `once` do not count as its cost."""
        known = self._costs.get(expert)
        if not once:
            self._costs[expert] = seconds if known is None else known + _FORGETTING * (seconds - known)
        self._resident, self._since, self._joined = expert, now, None

    def changed(self, expert: str) -> None:
        """Note that the expert's weights were replaced: if it is resident, it must be loaded again."""
        if self._resident == expert:
            self._resident = None

    def failed(self, expert: str) -> list[Waiting]:
        """Note that loading the expert failed and none is ready. Removes and returns the requests waiting for it."""
        self._resident = None
        given_up = [each for each in self._waiting.values() if each.expert == expert]
        for each in given_up:
            del self._waiting[each.id]
        return given_up

    def lost(self) -> list[Waiting]:
        """Note that the engine is gone and no expert ready. Removes and returns the requests that were running."""
        self._resident = None
        running = list(self._running.values())
        self._running.clear()
        self._began.clear()
        return running

    def wait(self) -> float:
        """The seconds after which a request arriving now would begin, estimated from those that began last."""
        return sum(not each.background for each in self._waiting.values()) * (self._between or 0.0)

    def _is_over(self, now: float) -> bool:
        """Whether nothing more of the resident expert begins."""
        following = self._next(now)
        if following is None:
            return False
        if self._resident is None or not self._has_work():
            return True
        if all(each.background for each in self._others()) and not all(w.background for w in self._running.values()):
            return False
        turn, cost = now - self._since, self._cost(following)
        if turn >= self._amortise * cost or (turn >= cost and self._impatient(now)):
            return True
        return self._lags(following, now)

    def _lags(self, following: str, now: float) -> bool:
        """Whether going over serves so many more requests a second than letting those join that wait for this expert.

        Whoever joins has others wait for as long as it runs beyond what runs already, taken to have just begun.
        """
        joining = min(self._counting(str(self._resident)), self._slots - len(self._running))
        taken = self._durations.of(max(joining, 1))
        if not joining or self._joined is None or taken is None:
            return False
        longer, running = taken, len(self._running)
        if running:
            slower = (self._durations.of(running + joining) or 0.0) - (self._durations.of(running) or 0.0)
            longer = min(now - self._joined, taken) + slower
        others = min(self._counting(following), self._slots)
        seconds = self._cost(following) + (self._durations.of(max(others, 1)) or 0.0)
        return _LAGGING * joining * seconds < others * longer

    def _counting(self, expert: str) -> int:
        """How many wait for an expert and count: the background does only where nobody else waits."""
        background = all(each.background for each in self._waiting.values())
        return sum(w.expert == expert and (background or not w.background) for w in self._waiting.values())

    def _next(self, now: float) -> str | None:
        """The expert whose turn comes after this one; None where nobody waits for another."""
        impatient = self._impatient(now)
        if impatient:
            return min(impatient, key=lambda each: (each.arrived, each.id)).expert
        votes = self._votes(now)
        return max(votes, key=lambda expert: (votes[expert] / self._cost(expert), expert), default=None)

    def _impatient(self, now: float) -> list[Waiting]:
        return [w for w in self._others() if now >= w.arrived + self._patience]

    def _has_work(self) -> bool:
        """Whether the resident expert has any that counts; what runs in the background is finished all the same."""
        present = [w for w in self._waiting.values() if w.expert == self._resident] + list(self._running.values())
        background = all(each.background for each in self._waiting.values())
        return any(background or not each.background for each in present)

    def _others(self) -> Iterator[Waiting]:
        """Those that wait for another expert and count: the background does only where nobody else waits."""
        background = all(each.background for each in self._waiting.values())
        others = (each for each in self._waiting.values() if each.expert != self._resident)
        return (each for each in others if background or not each.background)

    def _kept_free(self, now: float) -> int:
        """The slots that the background leaves to those who may come next."""
        return self._slots // 4 if now < self._others_came + self._patience else 0

    def _promote(self, now: float) -> None:
        """Those in the background that have waited for too long become requests like others: a few, now and then."""
        late = [w for w in self._waiting.values() if w.background and w.arrived + STARVING <= now]
        alone = all(each.background for each in (*self._waiting.values(), *self._running.values()))
        if not late or alone or now < self._promoted + STARVING:
            return
        self._promoted, first = now, min(late, key=lambda each: each.arrived)
        with_it = sorted((each for each in late if each.expert == first.expert), key=lambda each: each.arrived)
        for each in with_it[: max(1, self._slots // 4)]:
            self._waiting[each.id] = replace(each, background=False)

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
            least = min(self._served[other] for other in present)
            self._served[key] = max(self._served[key], least)
            if len(self._served) > 2 * _KEYS + len(present):
                self._forget(present | {key})

    def _forget(self, present: set[str]) -> None:
        """Of the keys that are away, only those that are furthest ahead are remembered."""
        away = Counter({key: count for key, count in self._served.items() if key not in present})
        self._served = Counter({key: self._served[key] for key in present} | dict(away.most_common(_KEYS)))

    def _note_begun(self, now: float) -> None:
        if self._last_begun is not None:
            between = now - self._last_begun
            known = self._between
            self._between = between if known is None else known + _FORGETTING * (between - known)
        self._last_begun = now
