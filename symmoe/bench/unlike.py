"""`symmoe bench batch --unlike` and `swap --unlike`: engines of unlike models that sleep and wake, against new ones."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from symmoe.bench.loading import (
    REBUILDS,
    Workload,
    ideal_seconds,
    in_a_process,
    require_weights,
    run_plan,
    same_texts,
    steps_of,
    texts_of,
    whole_checkpoint,
)
from symmoe.build import Assembly
from symmoe.config import ExpertConfig, Pool
from symmoe.engines.vllm import private_bytes
from symmoe.errors import PoolError
from symmoe.loading.engines import SleepingEngines
from symmoe.planning.costs import CostModel, StepTimes
from symmoe.planning.grouping import Fleet, problem_of, spread
from symmoe.planning.problem import Worker
from symmoe.planning.scheduling import schedule
from symmoe.quiet import output_to
from symmoe.types import Candidate, Load, Plan, Query, Refusal

if TYPE_CHECKING:
    from symmoe.deployments.executor import RayExecutor

ARCHITECTURES: Mapping[str, Mapping[str, int]] = {
    "qwen3": {"num_key_value_heads": 4, "head_dim": 32},
    "gpt_neox": {},
}
"""Architectures of the random models, by their names in transformers, with settings that each needs besides sizes."""
_SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
ANSWER_TOKENS = 32
"""At most so many tokens an answer: real answers are shorter, and a model with random weights does not stop."""
_LOOK_SECONDS = 0.25
_KILLED_LINES = 500
_BARS = {"wake_seconds": 0.1, "rebuild_to_wake": 100.0, "growth": 0.02, "ours_to_ideal": 1.15, "rebuild_to_ours": 5.0}


def random_model(architecture: str, tokenizer: str, out: Path) -> Path:
    """Write a small checkpoint with random weights and the tokenizer of another checkpoint to `out`; its path."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(words), max_position_embeddings=2048, **_SMALL, **ARCHITECTURES[architecture]
    )
    with output_to(out.parent / "made.log", shared=True):  # it prints a progress bar
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    words.save_pretrained(out)
    return out


def unlike_pool(pool: Pool, model: Path | None, folder: Path, made_only: bool = False) -> Pool:
    """Five experts of four shapes: a pool's base model and first adapter, another real model, and two random ones.

    The other real model is in the directory `model`, or is a second model of the pool. Raises `PoolError` if there is
    neither, unless `made_only` allows doing without.
    """
    require_weights(pool)
    base = pool.experts[0]
    adapted = next(expert for expert in pool.experts if expert.adapter)
    if adapted.model != base.model:
        base = next((one for one in pool.experts if one.model == adapted.model and not one.adapter), base)
    others = [one for one in pool.experts if one.model != base.model and not one.adapter and one.remote is None]
    if model is not None:
        others = [ExpertConfig(name="other", model=str(model.resolve()))]
    if not others and not made_only:
        raise PoolError(
            f"pool {pool.name!r} has experts of one model only", hint="name a directory of another with --model"
        )
    source = Assembly(pool).weights(base.name).model
    made = [
        ExpertConfig(name=f"random-{each}".replace("_", "-"), model=str(random_model(each, source, folder / each)))
        for each in ARCHITECTURES
    ]
    sampling = pool.sampling.model_copy(update={"max_tokens": min(pool.sampling.max_tokens, ANSWER_TOKENS)})
    return pool.model_copy(update={"experts": (base, adapted, *others[:1], *made), "sampling": sampling})


def measure_unlike_batch(
    pool: Pool,
    model: Path | None,
    work: Workload,
    rounds: int,
    processes: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds of each way to run the same calls to experts of unlike shapes, and whether their answers are equal.

    `ours_cold` starts every engine that it needs; `ours` runs the plan with engines that an earlier batch left asleep,
    and alternates with `ideal`, which is generation alone; the fastest round of each counts. Rebuilds run once, in a
    new process, with a new engine for every expert.
    """
    with tempfile.TemporaryDirectory() as folder:
        tell("making two models")
        many = unlike_pool(pool, model, Path(folder))
        steps, assembly = steps_of(many, work), Assembly(many)
        engines = sleeping_engines(assembly)
        measured: list[dict[str, float]] = []
        try:
            tell("engines started as they are needed")
            with _peak_of(engines) as peak:
                cold, first, candidates = run_plan(assembly.executor, steps)
            for number in range(rounds):
                tell(f"no switching, and engines asleep: round {number + 1} of {rounds}")
                ideal = ideal_seconds(assembly, steps)
                ours, loads, again = run_plan(assembly.executor, steps)
                measured.append({"ideal": ideal, "ours": ours, "loading": sum(load.seconds for load in loads)})
        finally:
            assembly.close()
        texts = texts_of(candidates)
        identical = {"ours_cold": same_texts(texts_of(again), texts)}
        rebuilt = {}
        merged = {name: whole_checkpoint(assembly, name, Path(folder)) for name in many.names}
        for name in list(REBUILDS)[: 1 + processes]:
            tell(f"an engine for every expert: {name}")
            alone = many.model_copy(update={"experts": many.experts[:1]})
            rebuilt[name] = in_a_process(alone, steps, merged, REBUILDS[name])
            identical[name] = same_texts(texts_of(again), rebuilt[name]["texts"])
    best = {name: min(row[name] for row in measured) for name in ("ours", "ideal")}
    seconds = {**best, "ours_cold": cold, **{name: side["seconds"] for name, side in rebuilt.items()}}
    ratios = {"ours_to_ideal": seconds["ours"] / seconds["ideal"]}
    ratios |= {f"{name}_to_{way}": seconds[name] / seconds[way] for name in rebuilt for way in ("ours", "ours_cold")}
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "bars": {name: {"bar": _BARS[name], "measured": round(ratios[name], 3)} for name in ratios if name in _BARS},
        "identical": identical,
        "memory": {"budget": engines.budget, "peak_reserved": peak["reserved"], "peak_resident": peak["resident"]},
        "experts": list(many.names),
        "calls": len(texts),
        "max_tokens": many.sampling.max_tokens,
        "rounds": measured,
        "loads": {"first": _load_facts(first), "last": _load_facts(loads)},
    }


def measure_unlike_workers(
    pool: Pool,
    model: Path | None,
    work: Workload,
    workers: Sequence[int],
    address: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds of the same calls on each number of workers, by the planned seconds.

    The workers are of the Ray cluster at `address`, else of this machine. Each number runs twice with new engines: the
    first run measures the costs of experts, with which the second is planned; the second counts. Answers are compared
    with those of one worker in this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        tell("making two models")
        many = unlike_pool(pool, model, Path(folder), made_only=True)
        steps, assembly = steps_of(many, work), Assembly(many)
        try:
            tell("one worker")
            seconds, _, candidates = run_plan(assembly.executor, steps)
        finally:
            assembly.close()
        texts = texts_of(candidates)
        rows = {
            str(count): _planned_and_run(many, assembly.models, steps, count, address, texts, tell) for count in workers
        }
    return {
        "experts": list(many.names),
        "calls": len(texts),
        "max_tokens": many.sampling.max_tokens,
        "one_worker_seconds": round(seconds, 3),
        "workers": rows,
        "bars": {f"{count}_workers_to_plan": {"bar": 1.15, "measured": row["to_plan"]} for count, row in rows.items()},
    }


def _planned_and_run(
    pool: Pool,
    models: Mapping[str, str],
    whole: Plan,
    workers: int,
    address: str | None,
    texts: Mapping[str, str],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Divide a plan among workers by costs measured in a first run, and run it. Returns planned and actual seconds."""
    from symmoe.deployments.executor import RayExecutor

    learned = CostModel(models)
    for number in range(2):
        tell(f"{workers} workers, run {number + 1} of 2")
        fleet = Fleet((Worker(),) * workers, learned.costs())
        found = schedule(problem_of(whole, (), models, fleet))
        with RayExecutor(pool, workers, address, fleet.costs) as executor:
            times = _Timed(executor)
            seconds, loads, candidates = run_plan(times, spread(whole, found))
        for seen in times.observations():
            learned.observe(seen)
    return {
        "planned": round(found.makespan, 3),
        "seconds": round(seconds, 3),
        "to_plan": round(seconds / found.makespan, 3),
        "identical": same_texts(texts_of(candidates), texts),
        "loads": _load_facts(loads),
    }


class _Timed(StepTimes):
    """An executor that measures the times of another one."""

    def __init__(self, executor: RayExecutor) -> None:
        super().__init__()
        self._executor = executor

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """As the other executor does."""
        refusals: list[Refusal | None] = self._executor.refuse(queries, expert)
        return refusals

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """As the other executor does."""
        for event in self._executor.run(plan):
            self.load(event) if isinstance(event, Load) else self.candidates(event)
            yield event


def measure_unlike_swaps(
    pool: Pool,
    model: Path | None,
    switches: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds of waking and of building each engine, and memory before and after `switches` switches.

    The bars are for the largest model. An engine that runs and one that sleeps are killed during a plan of about 500
    calls, of which every one must be answered once.
    """
    with tempfile.TemporaryDirectory() as folder:
        tell("making two models")
        many = unlike_pool(pool, model, Path(folder))
        assembly = Assembly(many)
        engines = sleeping_engines(assembly)
        shapes = {many.expert(name).model: name for name in reversed(many.names)}
        order = list(shapes.values())
        largest = max(order, key=lambda name: _size(Path(assembly.weights(name).model)))
        ready = assembly.loader.ready
        with _peak_of(engines) as peak:
            try:
                tell("building engines")
                rebuilds = {name: ready(name).seconds for name in order}
                _once(assembly, order)
                tell(f"{switches} switches")
                _switch(assembly, order, 2 * len(order))
                before = _resident(engines)
                wakes = _switch(assembly, order, switches)
                after = _resident(engines)
                killed = _killed(assembly, order, tell)
            finally:
                assembly.close()
    wake = {name: median(wakes[name]) for name in order}
    growth = after / before - 1
    measured = {
        "wake_seconds": wake[largest],
        "rebuild_to_wake": rebuilds[largest] / wake[largest],
        "growth": growth,
    }
    return {
        "seconds": {name: {"rebuild": round(rebuilds[name], 3), "wake": round(wake[name], 5)} for name in order},
        "largest": largest,
        "bars": {name: {"bar": _BARS[name], "measured": round(value, 4)} for name, value in measured.items()},
        "memory": {
            "before": before,
            "after": after,
            "budget": engines.budget,
            "peak_reserved": peak["reserved"],
            "peak_resident": peak["resident"],
        },
        "switches": switches,
        "killed": killed,
    }


def sleeping_engines(assembly: Assembly) -> SleepingEngines:
    """The engines of a pool of unlike models, which must have several."""
    assert isinstance(assembly.engine, SleepingEngines), "a pool of unlike models has several engines"  # noqa: S101
    return assembly.engine


def _size(model: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def _load_facts(loads: Sequence[Load]) -> list[dict[str, Any]]:
    return [
        {"expert": one.expert, "lane": one.lane, "seconds": round(one.seconds, 4), "why": one.reason} for one in loads
    ]


def _once(assembly: Assembly, order: Sequence[str]) -> None:
    """Have every engine generate once, so that memory of first use does not count as growth by switching."""
    steps = steps_of(assembly.pool, Workload(len(order), 1, min(3, len(order)), 0))
    run_plan(assembly.executor, steps)


def _switch(assembly: Assembly, order: Sequence[str], switches: int) -> dict[str, list[float]]:
    """Seconds of `switches` switches in a row, by the expert that was woken."""
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for turn in range(switches):
        name = order[turn % len(order)]
        seconds[name].append(assembly.loader.ready(name).seconds)
    return seconds


def _killed(assembly: Assembly, order: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Kill the engine that runs and one that sleeps while a plan of about 500 calls runs; counts of answers."""
    tell(f"killing engines in a batch of {_KILLED_LINES} calls")
    uncut = steps_of(assembly.pool, Workload(len(order), -(-_KILLED_LINES // 30), 3, 0))
    steps, engines = _first(uncut, _KILLED_LINES), sleeping_engines(assembly)
    candidates: list[Candidate] = []
    loads: list[Load] = []
    for event in assembly.executor.run(steps):
        if isinstance(event, Load):
            loads.append(event)
            if len(loads) == 2:
                os.kill(engines.processes[0], signal.SIGKILL)  # awake
            if len(loads) == 1:
                os.kill(engines.processes[-1], signal.SIGKILL)  # asleep, used last
        else:
            candidates += event
    given = Counter((one.query_id, one.expert, one.slot) for one in candidates)
    asked = {(s.query_id, s.expert, s.slot) for step in steps.steps for call in step.calls for s in call.serves}
    return {
        "asked": len(asked),
        "answered_once": sum(given[each] == 1 for each in asked),
        "given_up": sum(one.finish_reason == "error" for one in candidates),
        "loads": _load_facts(loads),
    }


def _first(plan: Plan, calls: int) -> Plan:
    """The plan cut to about `calls` calls, equally many of each step."""
    share = -(-calls // len(plan.steps))
    return Plan(tuple(type(step)(step.expert, step.calls[:share], step.worker) for step in plan.steps))


def _resident(engines: SleepingEngines) -> int:
    """Bytes of private memory of all engine processes."""
    total = 0
    for pid in engines.processes:
        with suppress(OSError):  # it has ended
            total += private_bytes(pid)
    return total


@contextmanager
def _peak_of(engines: SleepingEngines) -> Iterator[dict[str, int]]:
    """The most bytes reserved for engines, and the most they had, while the block runs; sampled."""
    peak, finished = {"reserved": 0, "resident": 0}, threading.Event()

    def look() -> None:
        while not finished.wait(_LOOK_SECONDS):
            peak["reserved"] = max(peak["reserved"], engines.used)
            peak["resident"] = max(peak["resident"], _resident(engines))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield peak
    finally:
        finished.set()
        looking.join()
