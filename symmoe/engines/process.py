"""An engine in a process of its own, seen from outside: it sleeps there, and its death harms nothing else."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from symmoe import errors
from symmoe.engines.engine_child import ERROR, GENERATE, PART, arguments_of, value_of
from symmoe.errors import EngineError, EngineLostError
from symmoe.private import private_folder, private_opener
from symmoe.types import Call, Delta, EngineStats, Generation, Image, Prompt, Query, Refusal

_START_SECONDS = 3600.0
_END_SECONDS = 30.0
_KNOWN = ("EngineError", "CheckpointError", "CapacityError")


class EngineProcesses:
    """Starts engines in processes of their own.

    `maker` names, as `module:function`, the function that makes an engine from `argument`, and `prepare` the function
    that does the imports once for all of them. An engine that is silent for `stall` seconds while it generates, sleeps
    or wakes is killed. Output of the processes is appended to `log`. Safe from several threads.
    """

    def __init__(self, maker: str, argument: Any, prepare: str, stall: float, log: Path) -> None:
        self._made = json.dumps([maker, argument]).encode()
        self._prepare, self._log, self.stall = prepare, log, stall
        self._lock = threading.Lock()
        self._launcher: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def engine(self) -> EngineProcess:
        """A new engine, not started and without a process."""
        return EngineProcess(self)

    def prepare(self) -> None:
        """Start the imports before the first engine is wanted."""
        with self._lock:
            self._launch()

    def connect(self) -> Connection:
        """A connection to a new process, which has been told which engine to make. Raises `EngineError`."""
        with self._lock:
            for _ in range(2):  # the launcher may have been killed
                parent_end, child_end = socket.socketpair()
                connection = Connection(parent_end.detach())
                try:
                    with child_end:
                        socket.send_fds(self._launch(), [b"+"], [child_end.fileno()])
                    connection.send_bytes(self._made)
                    return connection
                except OSError:
                    connection.close()
                    self._end_launcher()
        raise EngineError("no process for an engine could be started", hint=f"the log is {self._log}")

    def close(self) -> None:
        """End the launcher; each engine ends with its own connection."""
        with self._lock:
            self._end_launcher()

    def _launch(self) -> socket.socket:
        if self._control is None:
            private_folder(self._log.parent)
            self._control, child_end = socket.socketpair()
            # without -P a user's own random.py, say, would be imported in place of the standard library's
            command = [sys.executable, "-P", "-m", "symmoe.engines.engine_child", self._prepare]
            # a thread that numpy's BLAS has made would be missing in what is forked
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            with child_end, open(self._log, "ab", opener=private_opener) as log:
                self._launcher = subprocess.Popen(
                    command, stdin=child_end.fileno(), stdout=log, stderr=log, env=environment
                )
        return self._control

    def _end_launcher(self) -> None:
        control, launcher = self._control, self._launcher
        self._control, self._launcher = None, None
        if control is not None:
            control.close()
        if launcher is not None:
            launcher.kill()
            launcher.wait()


class EngineProcess:
    """A `SuspendableEngine` whose methods run in another process. For one thread at a time.

    A method raises `EngineLostError` if the process has ended, or was killed because it hung.
    """

    def __init__(self, processes: EngineProcesses) -> None:
        self._processes = processes
        self._connection: Connection | None = None
        self._process: int | None = None
        self._pid = 0
        self._model: str | None = None
        self._starts = self._closed = 0

    @property
    def model(self) -> str | None:
        """The directory of the model whose engine is running."""
        return self._model

    @property
    def started(self) -> int:
        """How often it was started."""
        return self._starts

    @property
    def pid(self) -> int | None:
        """The id of its process, or None while there is none."""
        return self._pid or None

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuse as the engine does."""
        return list(self._ask("refuse", queries, model))

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Start in a new process, ending any earlier one."""
        closed = self._closed + 1
        self.close()
        try:
            self._connection = self._processes.connect()
            if self._closed != closed:
                raise EngineLostError("the engine was closed while it started")
            self._pid = int(self._receive(_START_SECONDS)[1:])
            with suppress(OSError):  # a kernel or a sandbox may have none: then its end is not waited for
                self._process = os.pidfd_open(self._pid)
            self._ask("start", model, dict(tags), patience=_START_SECONDS)
        except BaseException:
            self.close()
            raise
        self._model = model
        self._starts += 1

    def wake(self, model: str) -> bool:
        """Always False: it has no other engine to switch to."""
        return False

    def swap(self, image: Image) -> int:
        """Write an expert's weights into the running engine; returns the bytes moved."""
        moved = int(self._ask("swap", image))
        self._model = image.model
        return moved

    def rebind(self, key: str, model: str) -> bool:
        """Serve weights that the engine still holds."""
        held = bool(self._ask("rebind", key, model))
        if held:
            self._model = model
        return held

    def adapt(self, adapter: str | None) -> bool:
        """Have the engine apply an adapter, if it does."""
        return bool(self._ask("adapt", adapter))

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Tell the engine which weights come next."""
        self._ask("expect", coming)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Generate for every call, yielding each as soon as it is finished. Closing it early ends the process."""
        over = False
        try:
            self._send(GENERATE, calls)
            while (reply := self._receive(self._processes.stall))[:1] == PART:
                if len(reply) > 1:
                    place, generation = value_of(GENERATE).validate_json(reply[1:])
                    yield calls[place], generation
            over = True
            _raise_error(reply)
        finally:
            if not over:
                self.close()

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Begin to generate for a query."""
        refusal: Refusal | None = self._ask("add", ident, query, stream, prompt)
        return refusal

    def step(self) -> list[Delta]:
        """Run one step of generation for every call."""
        return list(self._ask("step"))

    def abort(self, idents: Sequence[str]) -> None:
        """Abort these calls."""
        if self._connection is not None:
            self._ask("abort", idents)

    def stats(self) -> EngineStats | None:
        """What the engine counted."""
        stats: EngineStats | None = self._ask("stats")
        return stats

    def suspend(self) -> int:
        """Put the engine to sleep; returns the bytes of memory that it keeps."""
        return int(self._ask("suspend"))

    def resume(self) -> None:
        """Wake the engine."""
        self._ask("resume")

    def close(self) -> None:
        """End the process and wait until its memory is freed. Safe to call twice."""
        self._closed += 1
        connection, process = self._connection, self._process
        self._connection, self._process, self._pid, self._model = None, None, 0, None
        if connection is not None:
            _hang_up(connection)
        if process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], _END_SECONDS)
            os.close(process)
        if connection is not None:
            connection.close()

    def _ask(self, method: str, *arguments: Any, patience: float | None = None) -> Any:
        self._send(method, *arguments)
        reply = self._receive(self._processes.stall if patience is None else patience)
        _raise_error(reply)
        return value_of(method).validate_json(reply[1:])

    def _send(self, method: str, *arguments: Any) -> None:
        if self._connection is None:
            lost = EngineLostError("the engine's process has ended")
            raise lost if self._starts else EngineError("the engine was not started")
        try:
            self._connection.send_bytes(method.encode() + b"\n" + arguments_of(method).dump_json(arguments))
        except OSError as error:
            raise self._lost() from error

    def _receive(self, patience: float) -> bytes:
        assert self._connection is not None, "who receives has sent"  # noqa: S101
        try:
            if self._connection.poll(patience):
                return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self.close()
        raise EngineLostError(f"an engine gave no sign of life for {patience:.0f} s and was ended")

    def _lost(self) -> EngineLostError:
        self.close()
        return EngineLostError("an engine's process has ended", hint="most often memory: look into the engine's log")


def _hang_up(connection: Connection) -> None:
    """End the other side, and whoever waits on this side in another thread."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as both:
        both.shutdown(socket.SHUT_RDWR)


def _raise_error(reply: bytes) -> None:
    """Raise what the engine raised, if it did."""
    if reply[:1] == ERROR:
        name, message, hint = json.loads(reply[1:])
        kind = getattr(errors, name) if name in _KNOWN else EngineError
        raise kind(message if name in _KNOWN else f"{name}: {message}", hint=hint)
