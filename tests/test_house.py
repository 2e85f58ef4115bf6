from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("symmoe", "cli", "deployments", "skills") for path in (ROOT / folder).rglob("*.py")
)
FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
HEAVY = {"torch", "vllm", "ray", "transformers", "sentence_transformers", "matplotlib", "typer"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def public_things(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The module, and its public classes, functions and methods; what stands in a function is private."""
    yield "the module", tree
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def test_there_are_sources_to_look_at() -> None:
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [name for name, node in public_things(tree) if not ast.get_docstring(node)] == []  # type: ignore[arg-type]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_longer_than_700_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 700


@pytest.mark.parametrize(
    "module",
    [
        "symmoe.config",
        "symmoe.batch.job",
        "symmoe.build",
        "symmoe.deployments.executor",
        "symmoe.doctor",
        "symmoe.store",
    ],
)
def test_importing_a_light_module_leaves_the_heavy_libraries_out(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_reads_pickles_or_runs_text_as_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    loads = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "torch.load"]
    assert imported.isdisjoint({"pickle", "shelve", "dill", "cloudpickle", "joblib"})
    assert {ast.unparse(call.func) for call in calls}.isdisjoint({"eval", "exec", "yaml.load", "yaml.unsafe_load"})
    assert all("weights_only=True" in load for load in loads)
