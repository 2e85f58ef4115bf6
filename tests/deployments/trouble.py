"""Engines for workers: they do what the prompts say, and keep a record of it in the folder of the pool file.

    deadly   ends the process with SIGKILL, the first time
    poison   ends the process with SIGKILL, every time
    crash    raises, the first time
    wait     answers when there is a file `go`

An expert called `lethal` ends the process while it is loaded, one called `broken` cannot be loaded until there is a
file `mended`. `python -m tests.deployments.trouble batch run …` is the command with such workers.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.types import Call, Generation, Image


class TroubledEngine(EchoEngine):
    """An echo engine that does what its prompts say."""

    def __init__(self, folder: Path) -> None:
        super().__init__(window=64)
        self._folder = folder

    def swap(self, image: Image) -> int:
        name = Path(image.key).name
        if name == "lethal":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "broken" and not (self._folder / "mended").exists():
            raise EngineError("its weights are broken", hint="mend them")
        return super().swap(image)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call, generation in super().generate(calls):
            self._record(call)
            words = call.query.text.split()
            if "poison" in words or ("deadly" in words and first(self._folder, "deadly")):
                os.kill(os.getpid(), signal.SIGKILL)
            if "crash" in words and first(self._folder, "crash"):
                raise RuntimeError("a native library said no")
            while "wait" in words and not (self._folder / "go").exists():
                time.sleep(0.01)
            yield call, generation

    def _record(self, call: Call) -> None:
        with (self._folder / "asked").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {call.expert}: {call.query.text}\n")


def first(folder: Path, what: str) -> bool:
    """Whether this is the first time, over all processes."""
    try:
        (folder / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def troubled(pool: Pool) -> Assembly:
    assembly = Assembly(pool)
    assembly.engine = TroubledEngine(pool.root)
    return assembly


def asked(folder: Path) -> Counter[str]:
    """How often workers were asked each thing."""
    return Counter(line.split(" ", 1)[1] for line in lines(folder))


def pids(folder: Path) -> dict[int, None]:
    """The workers that were asked anything, in order."""
    return dict.fromkeys(int(line.split()[0]) for line in lines(folder))


def lines(folder: Path) -> list[str]:
    """What workers were asked: each time the process, the expert and the question."""
    record = folder / "asked"
    return record.read_text(encoding="utf-8").splitlines() if record.exists() else []


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests begun in the background pass on that it is ignored
    import symmoe.deployments.executor
    from symmoe.cli.main import main

    import symmoe.build
    from tests.conftest import SKILLS
    from tests.deployments import trouble
    from tests.fakes import NamingTagger

    symmoe.build.build_tagger = lambda *_: NamingTagger(*SKILLS)  # type: ignore[assignment,return-value]
    executor = symmoe.deployments.executor
    executor.RayExecutor = partial(executor.RayExecutor, build=trouble.troubled)
    main()
