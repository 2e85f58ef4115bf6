"""Sixteen experts of one shape: the pool's own, then weaker copies of its adapters, for benchmarks that need many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from random import Random

from symmoe.build import Assembly
from symmoe.config import ExpertConfig, Pool
from symmoe.errors import PoolError
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merged_weights
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import packed_path, write_pack
from symmoe.types import Assignment, Question, Recruitment

_STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)


def require_weights(pool: Pool) -> None:
    """Raise `PoolError` for a pool whose experts are no real models: there would be nothing to measure."""
    if pool.engine.kind != "vllm" or not any(expert.adapter for expert in pool.experts):
        raise PoolError(
            f"pool {pool.name!r} has no adapters on vLLM to switch between", hint="measure with --pool starter"
        )


def with_copies(pool: Pool, count: int, directory: Path) -> Pool:
    """The pool with `count` experts: its own, then copies of its adapters at lower strength."""
    adapted = [expert for expert in pool.experts if expert.adapter]
    experts = list(pool.experts[:count])
    for expert, strength in zip(cycle(adapted), (s for s in _STRENGTHS for _ in adapted), strict=False):
        if len(experts) >= count:
            break
        experts.append(_weaker(pool, expert, strength, directory))
    return pool.model_copy(update={"experts": tuple(experts)})


def dealt(questions: Sequence[Question], experts: Sequence[str], k: int, seed: int) -> list[Recruitment]:
    """Each question's `k` experts: that of its family where there is one, then others by chance."""
    rng = Random(seed)
    recruitments = []
    for question in questions:
        first = [question.family] if question.family in experts else []
        others = rng.sample([name for name in experts if name not in first], k - len(first))
        chosen = tuple(Assignment(question.id, name, slot) for slot, name in enumerate([*first, *others]))
        recruitments.append(Recruitment(question.id, chosen, {one.expert: 1 / k for one in chosen}))
    return recruitments


def write_merged(assembly: Assembly, expert: str, directory: Path) -> Path:
    """An expert as a whole checkpoint, as an engine of its own would load it."""
    from safetensors.torch import save_file

    weights = assembly.weights(expert)
    out = directory / expert
    shutil.copytree(weights.model, out, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(dict(merged_weights(weights.model, weights.adapter)), out / "model.safetensors")
    return out


def write_packs(assembly: Assembly, folder: Path) -> None:
    """Pack every expert of the pool."""
    for expert in assembly.pool.names:
        weights = assembly.weights(expert)
        layout = Layout.of(weights.model, weights.adapter)
        write_pack(layout, packed_path(folder, expert, layout.manifest))


def perturbed(model: Path, out: Path) -> Path:
    """A copy of a checkpoint in which every tensor differs by a percent of noise."""
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
