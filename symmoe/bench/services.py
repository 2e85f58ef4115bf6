"""The services to measure, each its own process. Run as a module, this is one of them: `ray.serve.llm`."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symmoe.bench.tied import tied
from symmoe.config import Pool, state_dir
from symmoe.deployments.door import CALLBACK
from symmoe.deployments.session import ray_session
from symmoe.engines.arguments import VLLM_ENVIRONMENT, vllm_arguments
from symmoe.errors import EngineError, JobError
from symmoe.private import private_folder, private_opener

_START_SECONDS = 600.0
_STOP_SECONDS = 90.0
_ROOM = 16
"""The number of CPUs given to Ray: every part of `ray.serve.llm` claims one, whether it uses it or not."""


@dataclass(frozen=True, slots=True)
class Side:
    """A running service: its name, address, and process id, 0 if it was started by somebody else."""

    name: str
    url: str
    pid: int = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The process id, if it is known."""
        return (self.pid,) if self.pid else ()


@contextmanager
def symmoe_serve(
    pool: str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Side]:
    """Run `symmoe serve` with these further options and environment variables. Raises `EngineError`."""
    port = free_port()
    command = "from symmoe.cli.main import main; main()"
    words = ["-c", command, "serve", "--pool", pool, "--port", str(port), "--json", *options]
    with _process(words, environment or {}) as process:
        started = json.loads(_wait(process, "}"))
        if "error" in started:
            raise EngineError(f"symmoe serve: {started['error']['message']}", hint=started["error"]["hint"])
        yield Side("symmoe", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def ray_serve_llm(pool: Pool, name: str, model: str) -> Iterator[Side]:
    """Serve the checkpoint in the directory `model` with `ray.serve.llm` and the engine settings of the pool."""
    port, gpu = free_port(), _gpu()
    engine = {**vllm_arguments(pool.engine, pool.engine.max_model_len, gpu), "disable_log_stats": True}
    accelerators = pool.engine.tensor_parallel_size if gpu else 0
    order = {"name": name, "model": model, "port": port, "engine": engine, "accelerators": accelerators}
    with _process(["-m", __name__, json.dumps(order)], _environment()) as process:
        _wait(process, "ready")
        yield Side("ray.serve.llm", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def vllm_serve(pool: Pool, name: str, model: str) -> Iterator[Side]:
    """Serve the checkpoint in the directory `model` with `vllm serve` and the engine settings of the pool."""
    port = free_port()
    # the module of `vllm serve` that also runs where only the CPU build, under its own name, is installed
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", name]
    words += ["--port", str(port), "--host", "127.0.0.1", "--disable-log-stats", "--disable-uvicorn-access-log"]
    for option, value in vllm_arguments(pool.engine, pool.engine.max_model_len, _gpu()).items():
        flag = option.replace("_", "-")
        words += {True: [f"--{flag}"], False: [f"--no-{flag}"]}.get(value, [f"--{flag}", str(value)])
    with _process(words, _environment()) as process:
        url = f"http://127.0.0.1:{port}"
        _poll(process, f"{url}/health")
        yield Side("vllm serve", url, process.pid)


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_file() -> Path:
    """The log of the services."""
    return state_dir() / "bench.log"


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _environment() -> dict[str, str]:
    """The environment that Ray and the engine give a replica of symmoe."""
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    return {**VLLM_ENVIRONMENT, **threads}


@contextmanager
def _process(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments. It is terminated when the block or this process ends.

    After the block, it and its descendants are killed if they do not end.
    """
    from .machine import tree

    log = log_file()
    private_folder(log.parent)
    with (
        open(log, "ab", opener=private_opener) as sink,
        subprocess.Popen(
            tied(words),
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            started = tree(process.pid)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            for each in started:
                with suppress(Exception):  # it has ended; psutil notices if its id was reused
                    each.kill()


def _wait(process: subprocess.Popen[str], sign: str) -> str:
    """The output of a process up to the line `sign`. Raises `EngineError` if it ends before that or takes too long."""
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    output = ""
    try:
        for line in process.stdout or ():
            output += line
            if line.rstrip("\n") == sign:
                _drain(process)
                return output
    finally:
        timer.cancel()
    raise EngineError("a service to measure did not start", hint=f"its log is {log_file()}")


def _poll(process: subprocess.Popen[str], url: str) -> None:
    import time

    import httpx

    _drain(process)
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise EngineError("a service to measure did not start", hint=f"its log is {log_file()}")


def _drain(process: subprocess.Popen[str]) -> None:
    """Read the rest of the output, so that the pipe does not fill up and block the process."""
    if process.stdout is not None:
        threading.Thread(target=process.stdout.read, daemon=True).start()


def serve_alone(name: str, model: str, port: int, engine: dict[str, Any], accelerators: int) -> None:
    """Serve the checkpoint in the directory `model` as `name` until SIGTERM; prints `ready` once it answers.

    `engine` are arguments of vLLM; `accelerators` is how many it uses, 0 for CPUs only.
    """
    os.environ.update(dict.fromkeys(CALLBACK, ""))  # without the callback of symmoe's own proxy
    with ray_session(_ROOM):
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has set its own handlers
            signal.signal(number, lambda *_: sys.exit())
        app = _application(name, model, engine, accelerators)
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        serve.run(app, name="rival", route_prefix="/", logging_config=quiet)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        finally:
            serve.shutdown()


def _application(name: str, model: str, engine: dict[str, Any], accelerators: int) -> Any:
    try:
        from ray.serve.llm import LLMConfig, build_openai_app
    except ImportError as error:
        raise JobError(
            f"ray.serve.llm cannot be used: {str(error).splitlines()[0]}",
            hint="install 'symmoe[bench]', or compare with --against vllm",
        ) from error
    bundle = {"CPU": 1, **({"GPU": 1} if accelerators else {})}
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": model},
        deployment_config={"num_replicas": 1, "max_ongoing_requests": 1024},
        engine_kwargs=engine,
        placement_group_config={"bundles": [bundle] * max(accelerators, 1)},
        log_engine_metrics=False,
    )
    return build_openai_app({"llm_configs": [config]})


if __name__ == "__main__":
    serve_alone(**json.loads(sys.argv[1]))
