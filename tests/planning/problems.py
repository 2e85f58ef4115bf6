"""Small problems, drawn and written by hand, and the brute force that judges plans of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from hypothesis import strategies as st

from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Instance, Placement, Problem, Worker

NAMES = tuple("abcdefgh")
TEN = ExpertCost(10.0, 1.0)
"""A load of ten seconds, requests of one."""


def problem(
    requests: Mapping[str, int],
    workers: int | Sequence[Worker] = 2,
    cost: ExpertCost | Mapping[str, ExpertCost] = TEN,
    models: Mapping[str, str] | None = None,
    together: Mapping[tuple[str, str], float] | None = None,
) -> Problem:
    """Experts of models of their own and of equal cost, unless said otherwise."""
    costs = dict.fromkeys(requests, cost) if isinstance(cost, ExpertCost) else dict(cost)
    seats = (Worker(),) * workers if isinstance(workers, int) else tuple(workers)
    return Problem(requests, costs, models or {name: name for name in requests}, seats, together or {})


@st.composite
def problems(draw: st.DrawFn, experts: int = 6, workers: int = 4, most: int = 30) -> Problem:
    """Any mix of heavy and light experts, shared models, cheap swaps and experts that are ready already."""
    names = NAMES[: draw(st.integers(1, experts))]
    models = {name: draw(st.sampled_from(["one", "two", name])) for name in names}
    seconds = st.floats(0.01, 20.0)
    costs = {
        name: ExpertCost(load := draw(seconds), draw(st.floats(0.01, 5.0)), 1, draw(st.floats(0.0, load)))
        for name in names
    }
    asleep = st.frozensets(st.sampled_from(["one", "two"]))
    seats = [
        Worker(draw(st.sampled_from(["", *names])), asleep=draw(asleep)) for _ in range(draw(st.integers(1, workers)))
    ]
    requests = {name: draw(st.integers(0, most)) for name in names}
    together = draw(st.dictionaries(st.tuples(st.sampled_from(names), st.sampled_from(names)), st.floats(0, 9)))
    return Problem(requests, costs, models, tuple(seats), together)


def shortest(of: Problem) -> float:
    """The least makespan of all placements, by trying each; for very few requests only."""
    instance = Instance(of)
    ways = [list(_ways(count, len(of.workers))) for count in instance.counts]
    return min((instance.makespan(_placed(instance, chosen)) for chosen in product(*ways)), default=0.0)


def _ways(count: int, workers: int) -> Iterator[tuple[int, ...]]:
    if workers == 1:
        yield (count,)
        return
    for first in range(count + 1):
        for rest in _ways(count - first, workers - 1):
            yield (first, *rest)


def _placed(instance: Instance, chosen: Sequence[tuple[int, ...]]) -> Placement:
    return [
        {expert: counts[worker] for expert, counts in enumerate(chosen) if counts[worker]}
        for worker in instance.workers
    ]
