"""A service on Ray Serve that asks for keys, and raw connections to it, as an attacker has them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from symmoe.deployments.serving import Served, serving
from symmoe.deployments.settings import Settings

from symmoe.bench.services import free_port
from symmoe.config import read_pool
from tests.conftest import echo_pool
from tests.deployments.streaming_trouble import troubled_streams
from tests.stores import own_state

QUESTION = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}


@contextmanager
def on_ray_serve(folder: Path, settings: Settings, keys: bool = True) -> Iterator[Served]:
    """A pool of echoes, on a Ray and with a store of its own."""
    pool = read_pool(str(echo_pool(folder)))
    with (
        own_state(folder, cache=False),
        serving(pool, settings, port=free_port(), keys=keys, build=troubled_streams) as service,
    ):
        service.wait_until_ready()
        yield service


def proxy_process() -> psutil.Process:
    """That in which Ray Serve's proxy runs."""
    return _process("ProxyActor")


def ingress_process() -> psutil.Process:
    """That in which the application runs."""
    return _process("ServeReplica:symmoe:ingress")


def _process(words: str) -> psutil.Process:
    ours = psutil.Process().children(recursive=True)
    (found,) = [each for each in ours if words in " ".join(each.cmdline())]
    return found


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection, with a limit to how long anything on it may take."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=120) as connection:
        yield connection


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of a request to this machine."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", "")).encode()


def half_sent(key: str, path: str = "/v1/chat/completions") -> bytes:
    """A request of which the body never comes to its end."""
    told = ("content-type: application/json", "content-length: 400", f"authorization: Bearer {key}")
    return head("POST", path, *told) + b"{"


def answered(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the JSON of the answer that comes."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += _more(connection)
    top, _, body = came.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _more(connection)
    return int(first.split(" ")[1]), headers, json.loads(body)


def endless(connection: socket.socket, piece: bytes, seconds: float, most: int) -> int:
    """Send a piece again and again until the connection is closed, the time is over or `most` bytes are sent."""
    connection.settimeout(1)
    sent, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends and sent < most:
        try:
            sent += connection.send(piece)
        except TimeoutError:
            continue
        except OSError:
            break
    return sent


def closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection before anybody's patience does."""
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 16)
    assert piece, "the connection was closed before the answer ended"
    return piece
