"""What routing adds to the time that an answer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from symmoe.config import Pool
from symmoe.errors import EngineError
from symmoe.policy import FAST

from .crowd import crowd
from .load import Ask, Load, Outcome
from .machine import taking
from .questions import texts
from .services import Side
from .summary import QUANTILES, milliseconds, quantile

TARGETS = {"p50": 20.0, "p99": 60.0}


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """How many questions are asked both ways, by how many clients at once (each number is a measurement)."""

    questions: int = 200
    clients: tuple[int, ...] = (1, 8)
    max_tokens: int = 8
    seed: int = 0


def measure_routing(
    pool: Pool, side: Side, load: RoutingLoad, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Milliseconds that `symmoe/fast` takes over the expert that it chooses, asked by its name.

    `added_ms` is the difference of the two ways' percentiles, `paired_ms` the percentiles of the difference that each
    question makes, `route_ms` what the service itself says. A client asks the expert for a token first, so that both
    ways find the prompt in the prefix cache and the expert ready; then one way and the other, in turn first.
    """
    tell("finding out who is chosen")
    questions = texts(pool, load.questions, load.seed)
    chosen = _chosen(side, questions)
    rows = {}
    for clients in load.clients:
        tell(f"{clients} clients at once")
        with taking({side.name: side.pids}) as taken:
            outcomes = crowd(side.url, Load(_chains(questions, chosen, load.max_tokens), clients))
        rows[str(clients)] = _added(outcomes) | taken.figures
    met = all(rows[clients]["added_ms"][name] <= most for clients in rows for name, most in TARGETS.items())
    return {"questions": load.questions, "max_tokens": load.max_tokens, "clients": rows, "targets": TARGETS, "met": met}


def _chosen(side: Side, questions: Sequence[str]) -> list[str]:
    """The expert that routing names for each question; the router is warm after that."""
    outcomes = crowd(side.url, Load(tuple((Ask(FAST, text, 1),) for text in questions), 4))
    _check(outcomes)
    return [outcome.told["experts"] for outcome in sorted(outcomes, key=lambda outcome: outcome.chain)]


def _chains(questions: Sequence[str], chosen: Sequence[str], max_tokens: int) -> tuple[tuple[Ask, ...], ...]:
    """A chain for each question, all of one expert together, so that few of them wait for another's turn."""
    chains = []
    for number, (expert, text) in enumerate(sorted(zip(chosen, questions, strict=True))):
        both = [Ask(expert, text, max_tokens), Ask(FAST, text, max_tokens)]
        chains.append((Ask(expert, text, 1), *(both if number % 2 else reversed(both))))
    return tuple(chains)


def _check(outcomes: Sequence[Outcome]) -> None:
    failed = next((outcome for outcome in outcomes if outcome.kind != "answer"), None)
    if failed is not None:
        raise EngineError(f"a request was not answered: {failed.why or failed.kind}")


def _added(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    _check(outcomes)
    asked = [outcome for outcome in outcomes if outcome.place > 0]
    took: dict[str, dict[int, float]] = {"named": {}, "routed": {}}
    for outcome in asked:
        took["named" if outcome.told["path"] == "named" else "routed"][outcome.chain] = outcome.ended - outcome.began
    named, routed = (list(times.values()) for times in took.values())
    paired = [took["routed"][chain] - seconds for chain, seconds in took["named"].items()]
    added = {name: round(1000 * (quantile(routed, q) - quantile(named, q)), 2) for name, q in QUANTILES.items()}
    own = [float(outcome.told["route-ms"]) / 1000 for outcome in asked if outcome.told["path"] != "named"]
    return {
        "named_ms": milliseconds(named),
        "routed_ms": milliseconds(routed),
        "added_ms": added,
        "paired_ms": milliseconds(paired),
        "route_ms": milliseconds(own),
    }
