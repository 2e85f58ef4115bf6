"""What `make check` refuses, planted; and what importing a light module leaves out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
HEAVY = {"torch", "vllm", "ray", "transformers", "sentence_transformers", "matplotlib", "typer"}
LIGHT = ("config", "batch.job", "build", "deployments.executor", "doctor", "store")

WRONG_CALLS = {
    "cli": """
from symmoe.deployments.session import ray_session

ray_session("two")
""",
    "deployments": """
from symmoe.config import read_pool

read_pool(3)
""",
}
WRONG_IMPORTS = {
    "symmoe/routing": ("symmoe.deployments.session", "Floors: imports run down only"),
    "deployments/api": ("rich", "Only the command line knows a terminal"),
    "symmoe/batch": ("ray", "Only the deployments know a cluster or web framework"),
    "deployments/telemetry": ("symmoe.deployments.api.service", "Packages import each other one way round"),
    "deployments/batches": ("symmoe.bench.clients", "Only commands and measurements import what measures"),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources, and what the linters are told of them, where something can be planted."""
    for name in ("symmoe", "cli", "deployments", "skills", "k8s", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(copy: Path, folder: str, text: str) -> None:
    """Write a module into the folder, and link the packages as `make check` does."""
    (copy / folder / "planted.py").write_text(f'"""Planted."""\n\n{text.strip()}\n', encoding="utf-8")
    subprocess.run([sys.executable, "tools/as_installed.py"], cwd=copy, check=True, timeout=60)


def test_importing_a_light_module_leaves_the_heavy_libraries_out() -> None:
    modules = ", ".join(f"symmoe.{name}" for name in LIGHT)
    code = f"import sys, {modules}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []


def test_imports_against_the_house_are_refused_under_the_names_by_which_packages_install(copy: Path) -> None:
    for folder, (wrong, _) in WRONG_IMPORTS.items():
        plant(copy, folder, f"import {wrong}")
    words = [TOOLS / "lint-imports", "--config", copy / "pyproject.toml", "--no-cache", "--no-logo"]
    folder = copy / "build" / "as_installed"
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    broken = {line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line}
    assert done.returncode == 1
    assert broken == {contract for _, contract in WRONG_IMPORTS.values()}


@pytest.mark.slow
def test_a_wrong_argument_in_a_call_across_the_packages_is_refused(copy: Path) -> None:
    for folder, wrong in WRONG_CALLS.items():
        plant(copy, folder, wrong)
    done = subprocess.run([TOOLS / "mypy"], cwd=copy, capture_output=True, text=True, timeout=600)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert done.returncode == 1
    assert sorted(error.split("/planted.py")[0].rpartition("/")[2] for error in errors) == sorted(WRONG_CALLS)
    assert all(error.endswith("[arg-type]") for error in errors)


def test_a_pickle_is_refused(copy: Path) -> None:
    plant(copy, "symmoe", "import pickle\n\npickle.loads(b'')")
    done = subprocess.run([TOOLS / "ruff", "check", "symmoe"], cwd=copy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "a pickle can run code" in done.stdout
