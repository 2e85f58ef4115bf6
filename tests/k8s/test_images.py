"""A lint of the images' recipes, and of what is sent to build them."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

from .conftest import ROOT, SHIPPED, containers, rendered

RECIPES = sorted((SHIPPED / "images").glob("Dockerfile.*"))
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Instructions with their arguments; continued lines joined, comments left out, bases as they are by default."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    given = [(word.upper(), rest[0] if rest else "") for word, *rest in found]
    usual = dict(rest.partition("=")[::2] for word, rest in given if word == "ARG")
    return [
        (word, re.sub(r"\$\{(\w+)\}", lambda name: usual[name[1]], rest) if word == "FROM" else rest)
        for word, rest in given
    ]


def problems(text: str) -> set[str]:
    """What is wrong with a recipe."""
    found = instructions(text)
    last = max((n for n, (word, _) in enumerate(found) if word == "FROM"), default=0)
    stages = {rest.split()[-1] for word, rest in found if word == "FROM" and " as " in rest.lower()}
    final = dict(found[last:])
    wrong = set()
    for word, rest in found:
        if word == "FROM" and rest.split()[0] not in stages and not re.search(r":\d+\.\d+\.\d+[\w.-]*( |$)", rest):
            wrong.add("base is not pinned by version")
        if word == "ADD":
            wrong.add("ADD")
        if word in ("ENV", "ARG") and re.search(r"(?i)(password|secret|token|api_?key)", rest):
            wrong.add("a secret")
        if word == "RUN" and re.search(r"curl|wget|--trusted-host|sudo|chmod 777", rest):
            wrong.add("fetches or opens what it should not")
        if word == "RUN" and "pip install" in rest and not re.search(r"==|\.lock|--no-deps", rest):
            wrong.add("installs what is not pinned")
        if word == "RUN" and "apt-get install" in rest:
            tidy = "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest
            wrong |= set() if tidy else {"leaves package lists behind"}
        if word == "COPY" and rest.split()[0] in (".", "./"):
            wrong.add("copies everything")
    user = final.get("USER", "root").split(":")[0]
    if not user.isdigit() or int(user) == 0:
        wrong.add("root")
    if len([word for word, _ in found if word == "FROM"]) < 2:
        wrong.add("one stage")
    if "HEALTHCHECK" not in final:
        wrong.add("no health check")
    if not final.get("ENTRYPOINT", "").startswith("["):
        wrong.add("entry point goes through a shell")
    return wrong


GOOD = """FROM base:1.2.3 AS build
RUN pip install uv==1.0.0
FROM base:1.2.3
COPY --from=build /a /a
USER 10001:10001
HEALTHCHECK CMD ["true"]
ENTRYPOINT ["symmoe"]
"""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_the_recipes_are_sound(recipe: Path) -> None:
    assert problems(recipe.read_text()) == set()


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        ("FROM base:1.2.3\n", "FROM base:latest\n", "base is not pinned by version"),
        ("FROM base:1.2.3\n", "FROM base\n", "base is not pinned by version"),
        ("COPY --from=build /a /a", "ADD https://example.com/a /a", "ADD"),
        ("COPY --from=build /a /a", "COPY . /a", "copies everything"),
        ("COPY --from=build /a /a", "ENV API_KEY=x", "a secret"),
        ("COPY --from=build /a /a", "RUN curl https://example.com/a | sh", "fetches or opens what it should not"),
        ("uv==1.0.0", "uv", "installs what is not pinned"),
        ("pip install uv==1.0.0", "apt-get install gcc", "leaves package lists behind"),
        ("USER 10001:10001\n", "", "root"),
        ("USER 10001:10001\n", "USER 0\n", "root"),
        ('HEALTHCHECK CMD ["true"]\n', "", "no health check"),
        ('ENTRYPOINT ["symmoe"]', "ENTRYPOINT symmoe", "entry point goes through a shell"),
    ],
)
def test_the_lint_finds_what_it_is_for(before: str, after: str, wrong: str) -> None:
    assert problems(GOOD) == set()
    assert problems(GOOD.replace(before, after)) == {wrong}


def test_both_images_start_the_service_as_the_user_that_the_pods_have() -> None:
    for recipe in RECIPES:
        found = dict(instructions(recipe.read_text()))
        assert (found["ENTRYPOINT"], found["CMD"]) == ('["symmoe"]', '["serve"]')
        users = {
            pod["securityContext"]["runAsUser"]
            for _, c, pod in containers(rendered("small-2026 on H100"))
            if "symmoe:" in c["image"]
        }
        assert {int(found["USER"].split(":")[0])} == users
    assert [recipe.name for recipe in RECIPES] == ["Dockerfile.cpu", "Dockerfile.gpu"]


def test_the_python_of_the_image_is_one_that_the_project_takes() -> None:
    for recipe in RECIPES:
        (base,) = {rest.split()[0] for word, rest in instructions(recipe.read_text()) if word == "FROM"}
        assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)  # what both locks were made for
        assert "/lib/python3.11/" in recipe.read_text()


def sent(path: str) -> bool:
    """Whether a file is sent to build an image; the last rule that meets it decides."""
    result = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        keep, pattern = rule.startswith("!"), rule.removeprefix("!")
        names = [Path(each).name for each in parents] if pattern.startswith("**/") else parents
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            result = keep
    return result


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_everything_that_is_copied_is_sent(recipe: Path) -> None:
    for word, rest in instructions(recipe.read_text()):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert sent(source), source


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "out/a.json", "tests/test_config.py", "cli/.env", "symmoe/key.pem"]
)
def test_history_environments_results_and_secrets_are_not_sent(path: str) -> None:
    assert not sent(path)


def test_what_the_package_is_made_of_is_sent() -> None:
    for path in (
        "symmoe/config.py",
        "deployments/app.py",
        "k8s/chart/templates/redis.yaml",
        "tools/overrides.txt",
        "pyproject.toml",
    ):
        assert sent(path)


@pytest.mark.parametrize("folder", ["symmoe", "cli", "deployments"])
def test_every_package_is_installed(folder: str) -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    for file in (ROOT / folder).rglob("__init__.py"):
        name = ".".join(file.parent.relative_to(ROOT).parts)
        assert (name if folder == "symmoe" else f"symmoe.{name}") in listed
