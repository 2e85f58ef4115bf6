"""What is checked, in the order of what is most worth knowing, and the bars that the figures are held to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

Found = dict[str, Any]


def document(text: str) -> Found:
    """The report of a command that writes JSON."""
    return {"report": json.loads(text)}


def junit(text: str) -> Found:
    """How many tests passed, failed and were skipped, and which failed, of pytest's JUnit file."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))  # noqa: S314  # written by the pytest that was run
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "skipped": skipped,
        "failed": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


@dataclass(frozen=True)
class Check:
    """One command and the most seconds it may take. `{python}`, `{symmoe}`, `{out}` and `{budget}` are filled in.

    `dry` stands in for it on a CPU; `wants` are packages without which it is left out; `read` makes
    something of the file that it writes.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    dry: tuple[str, ...]
    wants: tuple[str, ...] = ("torch",)
    read: Callable[[str], Found] = document


_LOADING = ("{python}", "benchmarks/gpu_loading.py", "--out", "{out}", "--budget", "{budget}")
_SLEEP = ("{python}", "-m", "benchmarks.gpu_check.sleeping", "--out", "{out}")
_TESTS = ("{python}", "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider", "--junitxml", "{out}")
_OURS = ("torch", "pytest", "hypothesis", "xdist", "pydantic", "yaml", "numpy", "safetensors", "xxhash")
_ENGINES = ("{python}", "-m", "benchmarks.gpu_check.engines", "--out", "{out}")
_SWAP = ("{symmoe}", "bench", "swap", "--rebuilds", "1", "--out", "{out}")
_BATCH = ("{symmoe}", "bench", "batch", "--rounds", "1", "--out", "{out}")
CHECKS = (
    Check("loading", _LOADING, 200, (*_LOADING, "--dry-run", "--scale", "0.001"), ("torch", "numpy", "safetensors")),
    Check("sleep", _SLEEP, 90, (*_SLEEP, "--dry-run", "--scale", "0.0005"), ("torch",)),
    Check("tests", _TESTS, 120, _TESTS, _OURS, junit),
    Check("engines", _ENGINES, 240, (*_ENGINES, "--dry-run"), ("vllm",)),
    Check("swap", (*_SWAP, "--swaps", "50"), 150, (*_SWAP, "--swaps", "20"), ("vllm", "typer")),
    Check(
        "batch", (*_BATCH, "--experts", "16"), 240, (*_BATCH, "--experts", "3", "--per-family", "2"), ("vllm", "typer")
    ),
)

_BARS: Mapping[str, tuple[str, Callable[[Found], float], float, bool]] = {
    "packed load, share of the pinned peak": ("loading", lambda found: _cell(found, "4", "efficiency"), 0.9, True),
    "packed load over plain safetensors": ("loading", lambda found: _cell(found, "4", "speedup"), 8.0, True),
    "scatter over a copy per matrix": ("loading", lambda found: _best(found, "9c", "9d"), 5.0, True),
    "wake of 7B shapes, times its bytes over the link": (
        "sleep",
        lambda found: found["report"]["times_link"],
        1.3,
        False,
    ),
}
"""By name: the check, what it measured, the bar, and whether more is better."""


def bars_of(checks: Mapping[str, Found], dry_run: bool) -> dict[str, Found]:
    """Of every bar what was measured, and whether it was met; null where it was not, as on a CPU."""
    told = {}
    for name, (check, measured, bar, more) in _BARS.items():
        value = None if dry_run else _measured(checks.get(check, {}), measured)
        met = None if value is None else value >= bar if more else value <= bar
        told[name] = {"bar": bar, "measured": value, "met": met}
    return told


def _measured(found: Found, measured: Callable[[Found], float]) -> float | None:
    try:
        return measured(found)
    except (KeyError, TypeError, ValueError):
        return None


def _cell(found: Found, name: str, what: str) -> float:
    (row,) = (row for row in found["report"]["cells"] if row["cell"] == name)
    return float(row[what])


def _best(found: Found, *names: str) -> float:
    return max(_cell(found, name, "speedup") for name in names)
