"""The import linter knows `cli` and `deployments` by their folders; these are the names by which they install."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"symmoe": ("symmoe.cli", "symmoe.deployments"), "deployments": ("symmoe.cli", "typer", "rich")}
FILES = [path for folder in FORBIDDEN for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    nodes = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_neither_command_line_nor_workers_and_workers_no_command_line(path: Path) -> None:
    above = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    assert [name for name in imported(path) if f"{name}.".startswith(tuple(f"{one}." for one in above))] == []
