"""The tool that builds an image's environment without Docker takes the recipe's own lines."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ROOT, SHIPPED

RECIPE = SHIPPED / "images" / "Dockerfile.cpu"
HERE = Path("/somewhere/else")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_image", ROOT / "tools" / "check_image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_line_that_installs_something_is_run_below_the_folder(tool: ModuleType) -> None:
    build, final = tool.instructions(RECIPE)
    lines = [tool.moved(rest, HERE) for word, rest in build if word == "RUN" and rest.startswith("uv ")]
    assert len(lines) == 3  # the environment, what the service needs, the project itself
    assert all(str(HERE / "opt/venv") in line for line in lines)
    for line in lines:
        for place in ("/opt/", "/tmp", "/usr/local"):  # noqa: S108
            assert place not in line.replace(str(HERE / place[1:]), "")
    assert dict(final)["CMD"] == '["serve"]'


def test_the_environment_is_the_images_own(tool: ModuleType) -> None:
    final = tool.instructions(RECIPE)[-1]
    found = tool.environment(final, HERE)
    assert found["PATH"].startswith(f"{HERE}/opt/venv/bin:")
    assert found["HOME"] == str(HERE / "tmp")
    assert found["SYMMOE_CACHE"] == f"{HERE}/var/lib/symmoe/cache"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_command_is_the_images_own(tool: ModuleType) -> None:
    words = tool.command(tool.instructions(RECIPE)[-1])
    assert words[:2] == ["symmoe", "serve"]
    assert words[2:] == [] or words[2] == "--port"
