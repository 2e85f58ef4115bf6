"""Many clients for minutes: whether every response is an answer or a proper refusal, and memory stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from symmoe.config import Pool
from symmoe.policy import AUTO, BEST, FAST

from ..settings import Settings
from .crowd import crowd
from .load import Ask, closed
from .machine import Memory, growth, taking
from .questions import texts
from .services import Side
from .summary import longest_wait, summary

GROWTH_TARGET = 3.0
_SHARES = {"named": 0.6, AUTO: 0.25, FAST: 0.1, BEST: 0.05}
_STREAMED, _LEAVING = 0.4, 0.05
_LEAVE_WITHIN = 10.0
_QUESTIONS = 500


@dataclass(frozen=True, slots=True)
class SoakLoad:
    """So many clients for so many minutes. Memory counts from `warm_up` on, a share of the time."""

    clients: int = 200
    minutes: float = 5.0
    max_tokens: int = 48
    warm_up: float = 0.2
    every: float = 1.0
    seed: int = 0


def measure_soak(
    pool: Pool, side: Side, load: SoakLoad, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """What came of all requests, the longest wait, and the growth of resident memory in percent.

    Clients ask experts by name at random and the routed models, whole and streamed; one in twenty leaves early.
    """
    seconds = 60 * load.minutes
    tell(f"{load.clients} clients for {load.minutes:g} minutes")
    memory = Memory(side.pid, load.every)
    with taking({side.name: side.pids}) as taken, memory.sampled():
        outcomes = crowd(side.url, closed(asks(pool, load), load.clients, seconds))
    report = summary(outcomes)
    waited, most = longest_wait(outcomes), Settings().longest_wait
    grown = growth(memory.samples, load.warm_up * seconds)
    well = not report["kinds"].get("broken")
    return {
        "clients": load.clients,
        "minutes": load.minutes,
        **report,
        "only_answers_and_429": well,
        "longest_wait": waited,
        "longest_wait_bound": most,
        "memory": grown,
        "growth_target_percent": GROWTH_TARGET,
        "met": well and grown["growth_percent"] <= GROWTH_TARGET and (waited or 0.0) <= most,
        **taken.figures,
    }


def asks(pool: Pool, load: SoakLoad) -> list[Ask]:
    """The requests that the clients work off, again and again."""
    random = Random(load.seed)
    names = [expert.name for expert in pool.experts if expert.remote is None]
    made = []
    for text in texts(pool, _QUESTIONS, load.seed):
        (kind,) = random.choices(list(_SHARES), list(_SHARES.values()))
        leave = random.uniform(0.05, _LEAVE_WITHIN) if random.random() < _LEAVING else None
        model = random.choice(names) if kind == "named" else kind
        made.append(Ask(model, text, load.max_tokens, random.random() < _STREAMED, leave))
    return made
