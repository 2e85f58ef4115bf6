"""Builds the environment of an image without Docker, by the recipe's own lines, and has it answer as a pod would.

    .venv/bin/python tools/check_image.py [--recipe k8s/images/Dockerfile.cpu] [--in FOLDER]

The lines of the build stage that install something run here, their paths moved below a folder; the image's own command
then runs there: as user 10001 if started by root, all of it read-only but the places that the recipe gives to that
user. One question is asked with the `openai` client. A folder that is named is kept, and built once.

The CPU build of torch comes from PyTorch's own index, as in the recipe, or from the folder that `UV_FIND_LINKS` names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PORT, USER = 8000, 10001
QUESTION, ANSWER = "What is 17 + 25?", "42"
WRITABLE = ("/tmp", "/var/lib/symmoe")  # noqa: S108 - places in the image
START_SECONDS = 600


def instructions(recipe: Path) -> list[list[tuple[str, str]]]:
    """Each stage's instructions with their arguments."""
    lines = [line for line in recipe.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[list[tuple[str, str]]] = []
    for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip()):
        if word == "FROM":
            stages.append([])
        if stages:  # what stands before them only names their base
            stages[-1].append((word, rest.strip()))
    return stages


def moved(text: str, folder: Path) -> str:
    """A line with the image's places moved below the folder."""
    return re.sub(r"(?<![\w./-])/(opt|tmp|var/lib|src|usr/local)(?=[/:\s]|$)", rf"{folder}/\1", text)


def build(stage: list[tuple[str, str]], folder: Path) -> None:
    """Run what a build stage copies and installs."""
    source = folder / "src"
    for word, rest in stage:
        if word == "COPY":
            *names, place = rest.split()
            for name in names:
                copy(ROOT / name, source / place / Path(name).name if place.endswith("/") else source / place)
        elif word == "RUN" and rest.startswith("uv "):
            line = moved(rest, folder).replace(" --no-cache", "")  # keeps an image small; here it would fetch all again
            if os.environ.get("UV_FIND_LINKS"):
                line = line.replace(" --torch-backend cpu", "")
            subprocess.run(line, shell=True, check=True, cwd=source)  # noqa: S602 - the recipe's own line


def python(folder: Path) -> None:
    """Put this Python where the base of an image has its own: the user of the image may not reach this one."""
    base = Path(sys.base_prefix)
    left_out = shutil.ignore_patterns("__pycache__", "site-packages", "test", "config-*", "*.a")
    for part in ("bin", "include", "lib"):
        shutil.copytree(base / part, folder / "usr" / "local" / part, symlinks=True, ignore=left_out)
    (folder / "usr" / "local" / "lib" / "python3.11" / "site-packages").mkdir(exist_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, and make the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def places(stage: list[tuple[str, str]], folder: Path) -> None:
    """Make the places that the last stage makes."""
    for _, rest in (each for each in stage if each[0] == "RUN"):
        for step in (moved(each.strip(), folder) for each in rest.split("&&")):
            if step.startswith(("mkdir ", "ln -s ")):
                subprocess.run(step, shell=True, check=True)  # noqa: S602 - the recipe's own line
    for place in WRITABLE:
        (folder / place[1:]).mkdir(parents=True, exist_ok=True)


def environment(stage: list[tuple[str, str]], folder: Path) -> dict[str, str]:
    """What the image sets; and where its Python finds its own library, which was built for another place."""
    lines = " ".join(rest for word, rest in stage if word == "ENV").replace("$PATH", os.defpath.strip(":"))
    pairs = [pair.partition("=") for pair in lines.split()]
    library = {"LD_LIBRARY_PATH": str(folder / "usr" / "local" / "lib")}
    return {name: moved(value, folder) for name, _, value in pairs} | library


def closed(folder: Path) -> list[str]:
    """Hand the image to its user, read-only but for what is the user's; how to start a command as that user."""
    subprocess.run(["chmod", "-R", "a-w,a+rX", folder / "opt"], check=True)
    folder.chmod(0o755)
    if os.getuid():
        return []
    for place in WRITABLE:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", folder / place[1:]], check=True)
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]


def read_only(folder: Path) -> list[str]:
    """How to start a command for which every file system but the writable places is read-only, if that is possible."""
    keep = " && ".join(f"mount --bind {folder}{place} {folder}{place}" for place in WRITABLE)
    prepare = f"{keep} && mount -o remount,ro,bind /"
    if os.getuid() or subprocess.run(["unshare", "--mount", "sh", "-c", prepare], capture_output=True).returncode:
        return []
    return ["unshare", "--mount", "sh", "-c", f'{prepare} && exec "$@"', "sh"]


def command(stage: list[tuple[str, str]]) -> list[str]:
    """The image's own command, on another port where the usual one is taken."""
    said = dict(stage)
    words: list[str] = [*json.loads(said["ENTRYPOINT"]), *json.loads(said["CMD"])]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)):
            return words
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return [*words, "--port", str(probe.getsockname()[1])]


def ask(words: list[str], variables: Mapping[str, str], folder: Path) -> str:
    """Start the service, ask it once, stop it; what it said. Raises `RuntimeError` where something is wrong."""
    import openai

    log = folder / "service.log"
    with log.open("wb") as errors:
        service = subprocess.Popen(
            words, env=dict(variables), cwd=folder / "tmp", stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert service.stdout is not None  # noqa: S101
    try:
        signal.alarm(START_SECONDS)
        first = service.stdout.readline()
        found = re.search(r"http://\S+/v1", first)
        if found is None:
            raise RuntimeError(f"the service did not start: {first}{log.read_text()}")
        client = openai.OpenAI(base_url=found[0], api_key="none", max_retries=0, timeout=120)
        asked = client.chat.completions.create(
            model="symmoe/auto", messages=[{"role": "user", "content": QUESTION}], max_tokens=16
        )
        answer = str(asked.choices[0].message.content)
    finally:
        signal.alarm(0)
        service.terminate()
        code = service.wait(120)
    if code or ANSWER not in answer:
        raise RuntimeError(f"exit code {code}, answer {answer!r}: {log.read_text()}")
    return answer


def main() -> None:
    """Build, start, ask, and tell how long each took."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--recipe", type=Path, default=ROOT / "k8s" / "images" / "Dockerfile.cpu")
    options.add_argument("--in", dest="folder", type=Path)
    given = options.parse_args()
    stages = instructions(given.recipe)
    with TemporaryDirectory(prefix="image-") as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        began = time.monotonic()
        if not (folder / "opt").exists():
            (folder / "src").mkdir(parents=True)
            python(folder)
            build(stages[0], folder)
            places(stages[-1], folder)
        shutil.rmtree(folder / "src", ignore_errors=True)  # an image has none
        built = time.monotonic()
        user, sealed = closed(folder), read_only(folder)
        answer = ask([*sealed, *user, *command(stages[-1])], environment(stages[-1], folder), folder)
        told = {
            "build_seconds": round(built - began, 1),
            "answer_seconds": round(time.monotonic() - built, 1),
            "user": USER if user else os.getuid(),
            "read_only_root": bool(sealed),
            "answer": answer,
        }
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
