"""A service as `symmoe serve` starts it, and a client of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil

from symmoe.bench.services import free_port
from tests.deployments.conftest import gone
from tests.stores import own_state


@contextmanager
def client_of(pool: str, folder: Path, options: Sequence[str] = ()) -> Iterator[openai.OpenAI]:
    """A client of a service in a process of its own, which is stopped as Ctrl-C would and leaves no process."""
    with own_state(folder, cache=False):
        code = "from symmoe.cli.main import main; main()"
        command = [sys.executable, "-c", code, "serve", "--pool", pool, "--port", str(free_port()), "--json", *options]
        pipe = subprocess.PIPE
        with psutil.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
            said = "".join(process.stdout.readline() for _ in range(5))
            yield openai.OpenAI(base_url=json.loads(said)["url"], api_key="none", max_retries=0, timeout=120)
            started = process.children(recursive=True)
            process.terminate()
            _, told = process.communicate(timeout=90)
            *unpacking, last = told.splitlines()  # a model comes in a package, the first time
            assert (process.returncode, last) == (0, "finishing open requests")
            assert all("MB" in line for line in unpacking)
            assert gone(started)
