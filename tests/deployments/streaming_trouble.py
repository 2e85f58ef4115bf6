"""An engine for replicas in processes of their own that does what its prompts say, once each; see `trouble`.

deadly   ends the process with SIGKILL
hang     takes for ever over one step
hold     gives a word and no more until there is a file `go` beside the pool file

While there is a file `loading` beside the pool file, no expert is made ready.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.engines.echo import EchoEngine
from symmoe.types import Delta, Image, Prompt, Query, Refusal
from tests.conftest import SKILLS
from tests.deployments.trouble import first
from tests.fakes import NamingTagger, ScatteringEmbedder


class TroubledStreams(EchoEngine):
    """Keeps a record of what it was asked in the file `asked`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(window=64)
        self._folder = folder
        self._prompts: dict[str, str] = {}
        self._begun: set[str] = set()

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        self._prompts[ident] = query.text
        with (self._folder / "asked").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {query.text}\n")
        return super().add(ident, query, stream)

    def swap(self, image: Image) -> int:
        while (self._folder / "loading").exists():
            time.sleep(0.01)
        return super().swap(image)

    def step(self) -> list[Delta]:
        said = {word for ident in self._open for word in self._prompts[ident].split()}
        if "deadly" in said and first(self._folder, "deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in said and first(self._folder, "hang"):
            time.sleep(3600)
        stay = self._begun & self._open.keys() if not (self._folder / "go").exists() else set()
        held = {ident: self._open.pop(ident) for ident in stay if "hold" in self._prompts[ident]}
        deltas = super().step()
        self._open |= held
        self._begun |= {delta.id for delta in deltas}
        if held and not deltas:
            time.sleep(0.002)
        return deltas


def troubled_streams(pool: Pool) -> Assembly:
    assembly = Assembly(pool, tagger=NamingTagger(*SKILLS), embedder=ScatteringEmbedder())
    assembly.engine = TroubledStreams(pool.root)
    return assembly


if __name__ == "__main__":
    from functools import partial

    import symmoe.deployments.serving
    from symmoe.cli.main import main

    from tests.deployments import streaming_trouble

    serving = symmoe.deployments.serving
    serving.serving = partial(serving.serving, build=streaming_trouble.troubled_streams)  # type: ignore[assignment]
    main()
