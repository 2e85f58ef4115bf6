"""One expert by its name, against the same expert alone on another server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from symmoe.config import Pool
from symmoe.errors import EngineError

from .crowd import crowd
from .load import Ask, Load, Outcome, closed, opened
from .machine import taking
from .questions import texts
from .services import Side
from .summary import best, summary

TARGET = 0.9
_OPEN_SHARE = 0.7
"""What an open load asks for by default: so much of what the slower side gives under a closed one."""


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """How the sides are asked: `requests` in each mode and round, `clients` of the closed modes, arrivals a second."""

    expert: str
    clients: int = 16
    requests: int = 96
    max_tokens: int = 48
    rounds: int = 3
    rate: float | None = None
    seed: int = 0


def measure_named(
    pool: Pool, sides: Sequence[Side], load: NamedLoad, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Requests and tokens per second, latency and time to first token of two sides, ours first, and their ratio.

    The modes are a closed load, whole and streamed, and an open one, streamed. Both sides stay up; they are asked in
    turn, the other one first in every second round, and the least disturbed round of each counts. Each round has
    questions of its own, equal for both. Raises `EngineError` if a request has no answer.
    """
    ours, other = sides
    for side in sides:
        tell(f"warming up {side.name}")
        _run(side, closed(_asks(pool, load, -1, False), load.clients))
    modes: dict[str, list[dict[str, Any]]] = {mode: [] for mode in ("closed", "closed_streamed", "open_streamed")}
    rate = load.rate
    for number in range(load.rounds):
        order = sides if number % 2 == 0 else (other, ours)
        for mode, rows in modes.items():
            asks = _asks(pool, load, number, mode != "closed")
            if mode == "open_streamed":
                rate = rate or _OPEN_SHARE * _slower(modes["closed_streamed"][0], sides)
                sent = opened(asks, rate, load.seed + number)
            else:
                sent = closed(asks, load.clients)
            tell(f"round {number + 1} of {load.rounds}, {mode.replace('_', ', ')}")
            rows.append(_round(sides, order, sent))
    return {
        "expert": load.expert,
        "against": other.name,
        "clients": load.clients,
        "requests": load.requests,
        "max_tokens": load.max_tokens,
        "open_rate": None if rate is None else round(rate, 3),
        "modes": {mode: _compared(rows, ours, other) for mode, rows in modes.items()},
        "target": TARGET,
        "met": all(
            _compared(modes[mode], ours, other)["ratio"] >= TARGET for mode in modes if mode.startswith("closed")
        ),
        "rounds": modes,
    }


def _asks(pool: Pool, load: NamedLoad, number: int, stream: bool) -> list[Ask]:
    """The questions of a round; every mode of it has its own, which no prefix cache knows yet."""
    seed = load.seed + 2 * (number + 1) + stream
    return [Ask(load.expert, text, load.max_tokens, stream) for text in texts(pool, load.requests, seed)]


def _round(sides: Sequence[Side], order: Sequence[Side], sent: Load) -> dict[str, Any]:
    row: dict[str, Any] = {}
    said: dict[str, dict[int, str]] = {}
    for side in order:
        with taking({each.name: each.pids for each in sides}) as taken:
            outcomes = _run(side, sent)
        said[side.name] = {outcome.chain: outcome.text.strip() for outcome in outcomes}
        row[side.name] = summary(outcomes) | taken.figures
    first, second = said.values()
    row["equal_answers"] = sum(first[number] == second[number] for number in first)
    return row


def _run(side: Side, sent: Load) -> list[Outcome]:
    outcomes = crowd(side.url, sent)
    failed = next((outcome for outcome in outcomes if outcome.kind != "answer"), None)
    if failed is not None:
        raise EngineError(f"{side.name}: a request was not answered: {failed.why or failed.kind}")
    return outcomes


def _slower(row: dict[str, Any], sides: Sequence[Side]) -> float:
    return min(float(row[side.name]["requests_per_second"]) for side in sides)


def _compared(rows: Sequence[dict[str, Any]], ours: Side, other: Side) -> dict[str, Any]:
    each = {side.name: best([row[side.name] for row in rows]) for side in (ours, other)}
    rates = [each[side.name]["requests_per_second"] for side in (ours, other)]
    by_round = [row[ours.name]["requests_per_second"] / row[other.name]["requests_per_second"] for row in rows]
    equal = f"{sum(row['equal_answers'] for row in rows)} of {sum(row[ours.name]['requests'] for row in rows)}"
    ratio = {"ratio": round(rates[0] / rates[1], 3), "ratio_by_round": [round(ratio, 3) for ratio in by_round]}
    return {**each, **ratio, "equal_answers": equal}
