"""The processes that engines run in: a launcher, and one for each engine, which is forked from it.

The launcher has imported what engines need, so that starting one costs no imports, and all share that memory. It forks
before any library has made a thread. An engine's process serves one connection and ends with it, so it never outlives
its owner, however that ended.

A request is the name of a method of `SuspendableEngine`, a line feed, and its arguments as JSON. Each reply is one byte
and JSON: `+` the value, always last; `!` an error; `.` a sign of life, or for `generate` a finished call.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Protocol, get_type_hints

from pydantic import TypeAdapter

from symmoe.errors import SymmoeError
from symmoe.protocols import SuspendableEngine
from symmoe.types import Generation

VALUE, ERROR, PART = b"+", b"!", b"."
GENERATE = "generate"
_BEAT_SECONDS = 1.0


class SteppingEngine(SuspendableEngine, Protocol):
    """An engine that can be run in a process of its own. It calls `stepped` after every step of `generate`."""

    stepped: Callable[[], None]


@cache
def arguments_of(method: str) -> TypeAdapter[Any]:
    """The JSON form of the arguments of one of the engine's methods: an array."""
    kinds: Any = tuple(kind for name, kind in _hints(method).items() if name != "return")
    return TypeAdapter(tuple[kinds])


@cache
def value_of(method: str) -> TypeAdapter[Any]:
    """The JSON form of what a method returns. `generate` gives the index of a call and its generation."""
    kind: Any = tuple[int, Generation] if method == GENERATE else _hints(method)["return"]
    return TypeAdapter(kind)


def _hints(method: str) -> dict[str, Any]:
    return get_type_hints(getattr(SuspendableEngine, method))


def named(path: str) -> Any:
    """The object that a dotted name, `module:name`, refers to."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def launch(control: socket.socket, prepare: str) -> None:
    """Fork an engine's process for each connection that arrives over `control`, until that closes.

    `prepare` names a function that imports what engines need; its errors are reported by the first engine.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this: it ends the engines in order
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with suppress(Exception):
        named(prepare)()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(Connection(descriptors[0]))
            finally:
                os._exit(0)
        os.close(descriptors[0])


def serve(connection: Connection) -> None:
    """Run one engine: the first message names the function that makes it, and its argument."""
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    try:
        maker, argument = json.loads(connection.recv_bytes())
        _reply(connection, VALUE + str(os.getpid()).encode())
        engine: SteppingEngine = named(maker)(argument)
        engine.stepped = _Beats(connection).beat
        while True:
            method, _, arguments = connection.recv_bytes().partition(b"\n")
            try:
                _answer(connection, engine, method.decode(), arguments)
            except Exception as error:  # an engine's parts raise what they like, and it is for the other side to judge
                _reply(connection, ERROR + json.dumps(_described(error)).encode())
    except (EOFError, OSError):
        return


def _answer(connection: Connection, engine: SteppingEngine, method: str, arguments: bytes) -> None:
    parameters = arguments_of(method).validate_json(arguments)
    if method != GENERATE:
        value = getattr(engine, method)(*parameters)
        _reply(connection, VALUE + value_of(method).dump_json(value))
        return
    (calls,) = parameters
    places = {call: place for place, call in enumerate(calls)}
    for call, generation in engine.generate(calls):
        _reply(connection, PART + value_of(GENERATE).dump_json((places[call], generation)))
    _reply(connection, VALUE)


def _reply(connection: Connection, message: bytes) -> None:
    connection.send_bytes(message)


def _described(error: Exception) -> tuple[str, str, str | None]:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    hint = error.hint if isinstance(error, SymmoeError) else None
    return type(error).__name__, first, hint


def _end_with(descriptor: int) -> None:
    """End this process when the other side of the connection is gone, whatever the engine is at."""
    waiting = select.poll()
    waiting.register(descriptor, 0)  # no event but the one that cannot be left out: that the other side hung up
    while not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in waiting.poll()):
        pass
    os._exit(0)


class _Beats:
    """Tells, now and then, that the engine is taking steps."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._last = connection, 0.0

    def beat(self) -> None:
        """A step was taken."""
        now = time.monotonic()
        if now - self._last >= _BEAT_SECONDS:
            self._last = now
            _reply(self._connection, PART)


def main() -> None:
    """Launch engines for the owner of the other end of standard input."""
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as devnull:
        os.dup2(devnull.fileno(), 0)  # an engine that had it too would keep the other end from seeing this one's death
    launch(control, sys.argv[1])


if __name__ == "__main__":
    main()
