"""One batch over many experts: symmoe's way, with no switching at all, and with an engine built for every expert."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.errors import EngineError
from symmoe.evaluation.loading.experts import dealt, require_weights, with_copies, write_merged, write_packs
from symmoe.evaluation.scoring import as_query
from symmoe.planning.grouping import plan
from symmoe.protocols import Executor
from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import mixed_suite
from symmoe.types import Candidate, Load, Plan

REBUILDS: Mapping[str, Mapping[str, str]] = {
    "rebuild": {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    "rebuild_processes": {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
}
"""The authors' way in one process, which is kind to it, and with vLLM's defaults, where each engine is a process."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The batch: how many experts, questions of each family, experts asked for each question, and the seed."""

    experts: int = 16
    per_family: int = 24
    k: int = 3
    seed: int = 0


def measure(
    pool: Pool,
    work: Workload,
    rounds: int,
    processes: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds of each way for the same calls, and whether every expert answers as it does in an engine of its own.

    `ours` and `ideal` share one running engine and alternate for `rounds`; the fastest of each counts. `ideal` is
    generation alone, each expert made ready outside the clock. `ours` is the whole plan on the running engine with the
    experts packed beforehand, `ours_unpacked` the same with every adapter merged while the batch runs; `ours_cold`
    adds the engine's start. Rebuilds run once; with `processes` also the one with a process for each engine.
    """
    require_weights(pool)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        many = with_copies(pool, work.experts, root)
        tell("packing")
        write_packs(Assembly(many), root / "packs")
        tell("packed experts, and no switching")
        packed, texts = _grouped(many, work, rounds, root / "packs")
        tell("experts merged on the way, and no switching")
        unpacked, _ = _grouped(many, work, rounds, root / "none")
        shutil.rmtree(root / "packs")
        tell("writing a checkpoint for every expert")
        assembly = Assembly(many)
        merged = {name: str(write_merged(assembly, name, root / "merged")) for name in many.names}
        rebuilt = {}
        for name in list(REBUILDS)[: 1 + processes]:
            tell(f"an engine for every expert: {name}")
            rebuilt[name] = _in_a_process(many, work, merged, REBUILDS[name])
    seconds = packed["seconds"] | {"ours_unpacked": unpacked["seconds"]["ours"]}
    seconds |= {name: side["seconds"] for name, side in rebuilt.items()}
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ratios": {
            "ours_to_ideal": round(seconds["ours"] / seconds["ideal"], 3),
            "ours_unpacked_to_ideal": round(seconds["ours_unpacked"] / unpacked["seconds"]["ideal"], 3),
        }
        | {f"{name}_to_ours": round(seconds[name] / seconds["ours"], 2) for name in rebuilt}
        | {f"{name}_to_ours_cold": round(seconds[name] / seconds["ours_cold"], 2) for name in rebuilt},
        "identical": {name: _same(texts, side["texts"]) for name, side in rebuilt.items()},
        "experts": work.experts,
        "questions": work.per_family * len(FAMILIES),
        "calls": len(texts),
        "rounds": {"packed": packed["rounds"], "unpacked": unpacked["rounds"]},
        "loads": packed["loads"],
    }


def steps_of(pool: Pool, work: Workload) -> Plan:
    """The batch's plan: one step for each expert."""
    questions = mixed_suite(list(FAMILIES), work.per_family, "test", work.seed)
    queries = [as_query(question, pool.sampling) for question in questions]
    return plan(queries, dealt(questions, pool.names, work.k, work.seed), dict.fromkeys(pool.names, "one"))


def _grouped(pool: Pool, work: Workload, rounds: int, packs: Path) -> tuple[dict[str, Any], dict[str, str]]:
    engine = pool.engine.model_copy(update={"kernel_cache_gib": 0.0})  # nothing is held from the pass before
    assembly = Assembly(pool.model_copy(update={"engine": engine}), packs)
    steps = steps_of(pool, work)
    try:
        start = assembly.loader.start(pool.names[0])
        _ideal(assembly, steps)  # first use of each shape is slower: neither side pays for it
        measured = []
        for _ in range(rounds):
            ideal = _ideal(assembly, steps)
            ours, loads, candidates = _run(assembly.executor, steps)
            measured.append({"ideal": ideal, "ours": ours, "loading": sum(load.seconds for load in loads)})
    finally:
        assembly.close()
    best = {name: min(row[name] for row in measured) for name in ("ours", "ideal")}  # least disturbed from outside
    report = {
        "seconds": best | {"ours_cold": best["ours"] + start},
        "rounds": measured,
        "loads": [{"expert": x.expert, "lane": x.lane, "seconds": x.seconds, "bytes": x.bytes} for x in loads],
    }
    return report, _texts(candidates)


def _ideal(assembly: Assembly, steps: Plan) -> float:
    """Seconds of generation alone."""
    seconds = 0.0
    for step in steps.steps:
        assembly.loader.ready(step.expert)
        began = time.perf_counter()
        for _ in assembly.engine.generate(step.calls):
            pass
        seconds += time.perf_counter() - began
    return seconds


def _run(executor: Executor, steps: Plan) -> tuple[float, list[Load], list[Candidate]]:
    loads: list[Load] = []
    candidates: list[Candidate] = []
    began = time.perf_counter()
    for event in executor.run(steps):
        if isinstance(event, Load):
            loads.append(event)
        else:
            candidates += event
    return time.perf_counter() - began, loads, candidates


def _texts(candidates: list[Candidate]) -> dict[str, str]:
    return {f"{one.query_id}/{one.expert}": one.text for one in candidates}


def _same(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, Any]:
    """How many answers are equal, and which are not."""
    if ours.keys() != theirs.keys():
        raise EngineError("the two ways did not answer the same calls")
    different = sorted(call for call, text in ours.items() if theirs[call] != text)
    return {"equal": len(ours) - len(different), "of": len(ours), "different": different[:20]}


def _in_a_process(
    pool: Pool, work: Workload, merged: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run the rebuild side in a cold process of its own."""
    request = {
        "pool": pool.model_dump(mode="json"),
        "root": str(pool.root),
        "merged": dict(merged),
        "work": [work.experts, work.per_family, work.k, work.seed],
    }
    done = subprocess.run(
        [sys.executable, "-m", "symmoe.evaluation.loading.rebuild"],
        input=json.dumps(request),
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EngineError(f"the side that rebuilds engines failed: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
