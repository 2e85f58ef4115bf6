"""The demo's batch, symmoe's way against the authors' way: a new vLLM engine for every expert.

Both sides answer the same calls of the same plan in one run of this script, each in a process of its own that starts
cold. The authors' way (Symbolic-MoE, §3.3 and its public code) loads each recruited expert's full checkpoint into a new
engine; the merged checkpoints that it needs are written beforehand and not counted. Its engines stay in one process, as
symmoe's does: vLLM's default, a process for every engine, would import vLLM anew each time and be slower still.

`seconds` run from before vLLM is imported to the last candidate: engine starts, loads, generation. `process_seconds`
are the whole process, with the start of Python, imports, embedding and routing, which both sides share.

    python benchmarks/engine_per_expert.py --out out/bench/engine_per_expert.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.evaluation.scoring import as_query
from symmoe.executor import InProcessExecutor
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.loading.merge import merged_weights
from symmoe.planning.grouping import plan
from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import mixed_suite
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.types import Load, Plan

SIDES = ("ours", "rebuild")


def main() -> None:
    """Measure both sides and write the report."""
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(_run_side(arguments)))
        return
    with tempfile.TemporaryDirectory() as merged:
        _write_merged(read_pool(arguments.pool), Path(merged))
        rounds = [_round(arguments, merged) for _ in range(arguments.rounds)]
    report = {
        "ratio": _ratios(rounds, "seconds"),
        "process_ratio": _ratios(rounds, "process_seconds"),
        "rounds": rounds,
        "same_answers": all(len({r[side]["digest"] for side in SIDES}) == 1 for r in rounds),
        "machine": f"{platform.machine()}, python {platform.python_version()}",
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def _ratios(rounds: list[dict[str, Any]], figure: str) -> dict[str, float]:
    """How many times longer the authors' way takes."""
    ratios = [each["rebuild"][figure] / each["ours"][figure] for each in rounds]
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def _round(arguments: argparse.Namespace, merged: str) -> dict[str, Any]:
    return {side: _measure(arguments, side, merged) for side in SIDES}


def _measure(arguments: argparse.Namespace, side: str, merged: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--pool", arguments.pool, "--per-family", str(arguments.per_family)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--side", side, "--merged", merged], check=True, stdout=subprocess.PIPE, text=True)
    whole = time.perf_counter() - began
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"process_seconds": round(whole, 2)}


def _run_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the plan; `seconds` go from before vLLM is imported to the last candidate."""
    import hashlib

    assembly = Assembly(read_pool(arguments.pool))
    steps = _plan(assembly, arguments.per_family)
    executor = assembly.executor
    if arguments.side != "ours":
        merged = Path(arguments.merged)
        loader = LaneLoader(assembly.engine, lambda expert: ExpertWeights(str(merged / expert)))
        executor = InProcessExecutor(assembly.engine, loader)
    loads: list[Load] = []
    texts: list[str] = []
    began = time.perf_counter()
    for event in executor.run(steps):
        if isinstance(event, Load):
            loads.append(event)
        else:
            texts += [f"{c.query_id}/{c.expert}/{c.slot}: {c.text}" for c in event]
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "load_seconds": round(sum(load.seconds for load in loads), 2),
        "experts": len(loads),
        "lanes": {load.expert: load.lane for load in loads},
        "calls": sum(len(step.calls) for step in steps.steps),
        "digest": hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16],
    }


def _plan(assembly: Assembly, per_family: int) -> Plan:
    pool = assembly.pool
    queries = [as_query(q, pool.sampling) for q in mixed_suite(list(FAMILIES), per_family, "test", 0)]
    skills = tag(assembly.tagger, queries)
    recruitments = recruit(assembly.recruiter, queries, skills, pool.routing.k, 0)
    return plan(queries, recruitments, assembly.models)


def _write_merged(pool: Pool, out: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    assembly = Assembly(pool)
    for name in pool.names:
        weights = assembly.weights(name)
        shutil.copytree(weights.model, out / name, ignore=shutil.ignore_patterns("*.safetensors"))
        save_file(dict(merged_weights(weights.model, weights.adapter)), out / name / "model.safetensors")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="starter")
    parser.add_argument("--per-family", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench/engine_per_expert.json"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--merged", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
