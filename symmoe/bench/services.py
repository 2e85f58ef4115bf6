"""The services that are measured, each a process of its own. Run as a module, this is one of them: `ray.serve.llm`."""

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
from symmoe.engines.arguments import vllm_arguments
from symmoe.errors import EngineError, JobError
from symmoe.private import private_folder, private_opener

_START_SECONDS = 600.0
_STOP_SECONDS = 90.0
_ROOM = 16
"""CPUs that Ray is told of: every part of `ray.serve.llm` claims one, which costs nothing."""


@dataclass(frozen=True, slots=True)
class Side:
    """A service that runs: its name, where it is, and its process, 0 for one that somebody else has started."""

    name: str
    url: str
    pid: int = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The process, if it is ours to look at."""
        return (self.pid,) if self.pid else ()


@contextmanager
def symmoe_serve(
    pool: str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Side]:
    """`symmoe serve` as anybody would start it, with these options and environment variables besides."""
    port = free_port()
    command = "from symmoe.cli.main import main; main()"
    words = ["-c", command, "serve", "--pool", pool, "--port", str(port), "--json", *options]
    with _process(words, environment or {}) as process:
        said = json.loads(_wait(process, "}"))
        if "error" in said:
            raise EngineError(f"symmoe serve: {said['error']['message']}", hint=said["error"]["hint"])
        yield Side("symmoe", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def ray_serve_llm(pool: Pool, name: str, model: str) -> Iterator[Side]:
    """The checkpoint in the directory `model` alone on `ray.serve.llm`, with the pool's engine settings."""
    port, gpu = free_port(), _gpu()
    engine = {**vllm_arguments(pool.engine, pool.engine.max_model_len, gpu), "disable_log_stats": True}
    accelerators = pool.engine.tensor_parallel_size if gpu else 0
    order = {"name": name, "model": model, "port": port, "engine": engine, "accelerators": accelerators}
    with _process(["-m", __name__, json.dumps(order)], _environment()) as process:
        _wait(process, "ready")
        yield Side("ray.serve.llm", f"http://127.0.0.1:{port}", process.pid)


@contextmanager
def vllm_serve(pool: Pool, name: str, model: str) -> Iterator[Side]:
    """The same on `vllm serve`."""
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
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_file() -> Path:
    """Where the services' own words go."""
    return state_dir() / "bench.log"


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _environment() -> dict[str, str]:
    """What a replica of ours gets from Ray and from its engine."""
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def _process(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process and what it starts, told to end when the block or this process does; killed if the block does and it
    does not.
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
                with suppress(Exception):  # gone already, and its number nobody's or another's, which psutil notices
                    each.kill()


def _wait(process: subprocess.Popen[str], sign: str) -> str:
    """What a process says until a line is `sign`. Raises `EngineError` if it ends before, or takes too long."""
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    said = ""
    try:
        for line in process.stdout or ():
            said += line
            if line.rstrip("\n") == sign:
                _drain(process)
                return said
    finally:
        timer.cancel()
    raise EngineError("a service to measure did not start", hint=f"its log is {log_file()}")


def _poll(process: subprocess.Popen[str], url: str) -> None:
    import time

    import httpx

    _drain(process)
    ends = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < ends:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise EngineError("a service to measure did not start", hint=f"its log is {log_file()}")


def _drain(process: subprocess.Popen[str]) -> None:
    """Read on, or the pipe fills up and the process waits."""
    if process.stdout is not None:
        threading.Thread(target=process.stdout.read, daemon=True).start()


def serve_alone(name: str, model: str, port: int, engine: dict[str, Any], accelerators: int) -> None:
    """Serve the checkpoint in the directory `model` as `name` until SIGTERM; says `ready` on stdout once it answers.

    `engine` are vLLM's own arguments, `accelerators` how many it runs on, 0 for CPUs alone.
    """
    os.environ.update(dict.fromkeys(CALLBACK, ""))  # alone is also without what stands before our own proxy
    with ray_session(_ROOM):
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has set its own; it ends while it starts, too
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
            hint="install what it needs, 'symmoe[bench]', or compare with --against vllm",
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
