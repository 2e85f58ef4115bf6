"""`symmoe bench swap` and `batch`: switching experts in one engine, against plain copies and new engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from symmoe.build import Assembly
from symmoe.config import ExpertConfig, Pool
from symmoe.errors import EngineError, PoolError
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS, write_merged
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import packed_path, write_pack
from symmoe.planning.grouping import plan
from symmoe.profiles.marking import as_query
from symmoe.protocols import Executor
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import mixed_suite
from symmoe.types import Assignment, Candidate, Load, Plan, Question, Recruitment

_STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_COPIES = 15
REBUILDS: Mapping[str, Mapping[str, str]] = {
    "rebuild": {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    "rebuild_processes": {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
}
"""Environments of the ways to start a new engine for every expert: in one process, and in vLLM's own process."""


def require_weights(pool: Pool) -> None:
    """Raise `PoolError` unless the pool has adapters on vLLM: otherwise there is nothing to measure."""
    if pool.engine.kind != "vllm" or not any(expert.adapter for expert in pool.experts):
        raise PoolError(
            f"pool {pool.name!r} has no adapters on vLLM to switch between", hint="measure with --pool starter"
        )


def with_copies(pool: Pool, count: int, directory: Path) -> Pool:
    """The pool with `count` experts: its own, then copies of its adapters at lower strength, in `directory`."""
    adapted = [expert for expert in pool.experts if expert.adapter]
    experts = list(pool.experts[:count])
    for expert, strength in zip(cycle(adapted), (s for s in _STRENGTHS for _ in adapted), strict=False):
        if len(experts) >= count:
            break
        experts.append(_weaker(pool, expert, strength, directory))
    return pool.model_copy(update={"experts": tuple(experts)})


def dealt(questions: Sequence[Question], experts: Sequence[str], k: int, seed: int) -> list[Recruitment]:
    """`k` experts for each question: the one named like its family, if any, then others at random."""
    rng = Random(seed)
    recruitments = []
    for question in questions:
        first = [question.family] if question.family in experts else []
        others = rng.sample([name for name in experts if name not in first], k - len(first))
        chosen = tuple(Assignment(question.id, name, slot) for slot, name in enumerate([*first, *others]))
        recruitments.append(Recruitment(question.id, chosen, {one.expert: 1 / k for one in chosen}))
    return recruitments


def whole_checkpoint(assembly: Assembly, expert: str, folder: Path) -> str:
    """The directory of an expert as a checkpoint for any engine: its own, or one in `folder` with adapter merged in."""
    weights = assembly.weights(expert)
    if not weights.adapter:
        return weights.model
    return str(write_merged(weights.model, weights.adapter, folder / expert))


def write_packs(assembly: Assembly, folder: Path) -> None:
    """Pack every expert of the pool into `folder`."""
    for expert in assembly.pool.names:
        weights = assembly.weights(expert)
        layout = Layout.of(weights.model, weights.adapter)
        write_pack(layout, packed_path(folder, expert, layout.manifest))


def perturbed(model: Path, out: Path) -> Path:
    """Write a copy of a checkpoint with a percent of noise added to every tensor to `out`; its path."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors", "symmoe.json"))
    noise = torch.Generator().manual_seed(0)
    for file in model.glob("*.safetensors"):
        changed = {
            name: (tensor.float() * (1 + 0.01 * torch.randn(tensor.shape, generator=noise))).to(tensor.dtype)
            for name, tensor in load_file(file).items()
        }
        save_file(changed, out / file.name)
    return out


def _weaker(pool: Pool, expert: ExpertConfig, strength: float, directory: Path) -> ExpertConfig:
    source = pool.path(expert.adapter or "")
    name = f"{expert.name}-{round(100 * strength)}"
    target = directory / "adapters" / name
    target.mkdir(parents=True)
    config = json.loads((source / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config["lora_alpha"] *= strength
    (target / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    shutil.copyfile(source / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    return expert.model_copy(update={"name": name, "adapter": str(target)})


def measure_swaps(
    pool: Pool, swaps: int, rebuilds: int, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Seconds of each way to switch, their ratios, and resident memory before and after `swaps` switches in a row.

    The pool's first model, a copy with noise, in which all weights differ, and an adapter of the first: `first` builds
    kernels (on a CPU) from an image in memory, `again` returns to a model whose kernels are still held;
    `adapter_first` and `adapter_again` are the same between the base and its adapter, where fewer weights differ.
    """
    require_weights(pool)
    with tempfile.TemporaryDirectory() as folder:
        tell("writing a second model")
        trio = _trio(pool, Path(folder))
        one, two, adapted = trio.names
        frugal = _engine(trio, kernels=0.0)
        roomy = _engine(trio, kernels=4.0)
        try:
            tell("rebuilding engines")
            seconds = {"rebuild": median([_start(frugal, name) for name in (one, two) * rebuilds][:rebuilds])}
            nbytes = sum(file.stat().st_size for file in Path(frugal.weights(one).model).glob("*.safetensors"))
            seconds["copy"] = _copy(nbytes)
            tell("switching, kernels made anew each time")
            seconds["first"] = _switching(frugal, (one, two), swaps)
            seconds["adapter_first"] = _switching(frugal, (one, adapted), swaps)
            tell(f"{swaps} switches in a row")
            memory = _memory(frugal, (one, two, adapted), swaps)
            frugal.close()
            tell("switching, kernels held")
            _start(roomy, one)
            seconds["again"] = _switching(roomy, (one, two), swaps)
            seconds["adapter_again"] = _switching(roomy, (one, adapted), swaps)
            held = _memory(roomy, (one, two, adapted), swaps)
        finally:
            frugal.close()
            roomy.close()
    ways = ("first", "again", "adapter_first", "adapter_again")
    return {
        "bytes": nbytes,
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "to_copy": {way: round(seconds[way] / seconds["copy"], 2) for way in ways},
        "rebuild_to": {way: round(seconds["rebuild"] / seconds[way], 1) for way in ways},
        "memory": {"first": memory, "again": held},
        "swaps": swaps,
    }


def _trio(pool: Pool, folder: Path) -> Pool:
    """A pool of the first model, a copy of it with noise, and the first adapter of that model."""
    base = pool.experts[0]
    adapted = next(expert for expert in pool.experts if expert.adapter and expert.model == base.model)
    other = perturbed(Path(Assembly(pool).weights(base.name).model), folder / "other")
    second = ExpertConfig(name="other", model=str(other))
    return pool.model_copy(update={"experts": (base, second, adapted)})


def _engine(pool: Pool, kernels: float) -> Assembly:
    engine = pool.engine.model_copy(update={"kernel_cache_gib": kernels})
    return Assembly(pool.model_copy(update={"engine": engine}))


def _start(assembly: Assembly, expert: str) -> float:
    weights = assembly.weights(expert).model
    began = time.perf_counter()
    assembly.engine.start(weights, assembly.images.tags(weights))
    return time.perf_counter() - began


def _switching(assembly: Assembly, experts: Sequence[str], swaps: int) -> float:
    """Median seconds of a switch, after each expert was made ready twice."""
    loads = [assembly.loader.ready(experts[turn % len(experts)]).seconds for turn in range(swaps + 2 * len(experts))]
    return median(loads[2 * len(experts) :])


def _memory(assembly: Assembly, experts: Sequence[str], swaps: int) -> dict[str, Any]:
    """Resident bytes after a few switches and after `swaps` more, and the relative growth."""
    _switching(assembly, experts, 10)
    before = _resident()
    _switching(assembly, experts, swaps)
    after = _resident()
    return {"before": before, "after": after, "growth": round(after / before - 1, 4)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _copy(nbytes: int) -> float:
    """Median seconds of a plain copy into allocated memory, with all of torch's threads."""
    import torch

    source, target = (torch.ones(nbytes, dtype=torch.uint8) for _ in range(2))
    seconds = []
    for _ in range(_COPIES):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@dataclass(frozen=True, slots=True)
class Workload:
    """The batch to measure: number of experts, questions of each family, experts for each question, and the seed."""

    experts: int = 16
    per_family: int = 24
    k: int = 3
    seed: int = 0


def measure_batch(
    pool: Pool,
    work: Workload,
    rounds: int,
    processes: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds of each way to run the same calls, and whether answers equal those of a new engine for every expert.

    `ours` and `ideal` share a running engine and alternate for `rounds`; the fastest of each counts. `ideal` is
    generation alone; loading is not timed. `ours` is the whole plan with experts packed beforehand, `ours_unpacked`
    the same with adapters merged during the batch; `ours_cold` adds the start of the engine. Rebuilds run once; with
    `processes` also the one with a process for each engine.
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
        merged = {}
        for name in many.names:
            weights = assembly.weights(name)
            merged[name] = str(write_merged(weights.model, weights.adapter, root / "merged" / name))
        rebuilt = {}
        for name in list(REBUILDS)[: 1 + processes]:
            tell(f"an engine for every expert: {name}")
            rebuilt[name] = in_a_process(many, steps_of(many, work), merged, REBUILDS[name])
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
        "identical": {name: same_texts(texts, side["texts"]) for name, side in rebuilt.items()},
        "experts": work.experts,
        "questions": work.per_family * len(FAMILIES),
        "calls": len(texts),
        "rounds": {"packed": packed["rounds"], "unpacked": unpacked["rounds"]},
        "loads": packed["loads"],
    }


def steps_of(pool: Pool, work: Workload) -> Plan:
    """The plan of the batch, with one step for each expert."""
    questions = mixed_suite(work.per_family, "test", work.seed)
    queries = [as_query(question, pool.sampling) for question in questions]
    return plan(queries, dealt(questions, pool.names, work.k, work.seed), dict.fromkeys(pool.names, "one"))


def _grouped(pool: Pool, work: Workload, rounds: int, packs: Path) -> tuple[dict[str, Any], dict[str, str]]:
    engine = pool.engine.model_copy(update={"kernel_cache_gib": 0.0})  # no kernels are held from the round before
    assembly = Assembly(pool.model_copy(update={"engine": engine}), packs)
    steps = steps_of(pool, work)
    try:
        start = assembly.loader.start(pool.names[0])
        ideal_seconds(assembly, steps)  # the first use of each shape is slower, and not timed
        measured = []
        for _ in range(rounds):
            ideal = ideal_seconds(assembly, steps)
            ours, loads, candidates = run_plan(assembly.executor, steps)
            measured.append({"ideal": ideal, "ours": ours, "loading": sum(load.seconds for load in loads)})
    finally:
        assembly.close()
    best = {name: min(row[name] for row in measured) for name in ("ours", "ideal")}  # least disturbed from outside
    report = {
        "seconds": best | {"ours_cold": best["ours"] + start},
        "rounds": measured,
        "loads": [{"expert": x.expert, "lane": x.lane, "seconds": x.seconds, "bytes": x.bytes} for x in loads],
    }
    return report, texts_of(candidates)


def ideal_seconds(assembly: Assembly, steps: Plan) -> float:
    """Seconds of generation alone, without loading."""
    seconds = 0.0
    for step in steps.steps:
        assembly.loader.ready(step.expert)
        began = time.perf_counter()
        for _ in assembly.engine.generate(step.calls):
            pass
        seconds += time.perf_counter() - began
    return seconds


def run_plan(executor: Executor, steps: Plan) -> tuple[float, list[Load], list[Candidate]]:
    """Run a plan. Returns its seconds, loads and candidates."""
    loads: list[Load] = []
    candidates: list[Candidate] = []
    began = time.perf_counter()
    for event in executor.run(steps):
        if isinstance(event, Load):
            loads.append(event)
        else:
            candidates += event
    return time.perf_counter() - began, loads, candidates


def texts_of(candidates: list[Candidate]) -> dict[str, str]:
    """The texts of candidates, by question and expert."""
    return {f"{one.query_id}/{one.expert}": one.text for one in candidates}


def same_texts(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, Any]:
    """How many answers are equal, and the first calls that differ. Raises `EngineError` if the calls differ."""
    if ours.keys() != theirs.keys():
        raise EngineError("the two ways did not answer the same calls")
    different = sorted(call for call, text in ours.items() if theirs[call] != text)
    return {"equal": len(ours) - len(different), "of": len(ours), "different": different[:20]}


def in_a_process(pool: Pool, steps: Plan, merged: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Any]:
    """`run` in a new process with this environment. Raises `EngineError` if it fails."""
    request = {
        "pool": pool.model_dump(mode="json"),
        "root": str(pool.root),
        "merged": dict(merged),
        "steps": TypeAdapter(Plan).dump_python(steps, mode="json"),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps(request),
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EngineError(f"the side that rebuilds engines failed: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def run(pool: Pool, steps: Plan, merged: Mapping[str, str]) -> dict[str, Any]:
    """Run a plan with a new engine for every step. `seconds` are from before the import of vLLM to the last text."""
    engine = Assembly(pool).engine
    texts: dict[str, str] = {}
    began = time.perf_counter()
    for step in steps.steps:
        engine.start(merged[step.expert], {})
        for call, generation in engine.generate(step.calls):
            texts |= {f"{one.query_id}/{one.expert}": generation.text for one in call.serves}
    seconds = time.perf_counter() - began
    engine.close()
    return {"seconds": seconds, "texts": texts}


def main() -> None:
    """Run the request on standard input (JSON), and write the result to standard output."""
    request = json.load(sys.stdin)
    pool = Pool.model_validate(request["pool"] | {"root": Path(request["root"])})
    answer = run(pool, TypeAdapter(Plan).validate_python(request["steps"]), request["merged"])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
