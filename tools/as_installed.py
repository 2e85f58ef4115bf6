"""Links the packages under the names by which they install, for tools that read sources without installing them.

    .venv/bin/python tools/as_installed.py [FOLDER]

`cli/` installs as `symmoe.cli`, `deployments/` as `symmoe.deployments`, and so on (`[tool.setuptools.package-dir]` in
pyproject.toml). mypy and the import linter know no such mapping: to them calls across it would be calls of anything.
Makes FOLDER, `build/as_installed` if not given, a tree of links in which they stand as they install.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "symmoe"


def link(folder: Path) -> None:
    """Make the tree anew: a folder of links to what the library holds, and to the packages that install in it."""
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / LIBRARY
    inside.mkdir(parents=True)
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-dir"]
    for entry in (ROOT / mapping.pop(LIBRARY)).iterdir():
        if entry.name != "__pycache__":
            (inside / entry.name).symlink_to(entry)
    for name, place in mapping.items():
        (inside / name.removeprefix(f"{LIBRARY}.")).symlink_to(ROOT / place)


if __name__ == "__main__":
    link(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "as_installed")
