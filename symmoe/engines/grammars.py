"""Checks in a process of its own whether an engine can handle a schema, before the engine sees it.

An engine compiles a schema while it serves everybody else, without bounds on time or memory, and only ending the engine
stops that. So the schema is first compiled in `grammar_child`, which can be killed, with the same library and
vocabulary. The engine compiles it again, because passing on the compiled form would take longer (13 MB and 0.5 s for a
form of a hundred fields that compiles in 0.04 s).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from symmoe.errors import CapacityError, CheckpointError
from symmoe.limits import (
    SCHEMA_DEAR_SECONDS,
    SCHEMA_DEAR_VERDICTS,
    SCHEMA_DEPTH,
    SCHEMA_PATIENCE,
    SCHEMA_VERDICTS,
    SCHEMAS_AT_ONCE,
    SCHEMAS_WAITING,
    SCHEMAS_WAITING_OF_KEY,
)
from symmoe.types import Form

_CHILD = (sys.executable, "-P", "-m", "symmoe.engines.grammar_child")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a schema, or None. If not `sure`, checking failed for reasons that are not the schema's."""

    fault: str | None
    sure: bool = True


@dataclass(slots=True, eq=False)
class _Trial:
    """One schema, and all who wait for its verdict."""

    id: int
    digest: bytes
    key: str
    asked: dict[str, Any]
    futures: list[Future[Verdict]] = field(default_factory=list)
    began: float = 0.0
    child: subprocess.Popen[bytes] | None = None


class Grammars:
    """Gives verdicts on schemas, from any thread. Its process starts with the first schema and ends with `close`.

    Keys take turns, so that many schemas of one do not hold up another's. `command` starts the process.
    """

    def __init__(self, command: Sequence[str] = _CHILD) -> None:
        self._command = command
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._queues: OrderedDict[str, deque[_Trial]] = OrderedDict()
        self._trials: dict[bytes, _Trial] = {}
        self._running: dict[int, _Trial] = {}
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._dear: OrderedDict[bytes, Verdict] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lines: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._count = 0
        self._closed = False

    def verdict(self, schema: str, model: str, key: str, form: Form = "json") -> Future[Verdict]:
        """The verdict on a schema, or other form, for the checkpoint in `model`.

        The work stops when all who wait for it cancel. `key` is whose schema it is. Raises `CapacityError` where too
        many wait, and `CheckpointError` for a model without a vocabulary.
        """
        future: Future[Verdict] = Future()
        digest = hashlib.sha256(f"{model}\0{form}\0{schema}".encode()).digest()
        with self._lock:
            known = self._recall(digest)
            if known is not None:
                future.set_result(known)
                return future
            trial = self._trials.get(digest)
            if trial is None:
                request = {"model": model, "vocabulary": self._size(model), "schema": schema, "form": form}
                trial = self._enter(digest, key, request)
            trial.futures.append(future)
            self._start_some()
        future.add_done_callback(lambda done: self._left(trial) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """End the process; who waits learns nothing of their schemas."""
        with self._lock:
            self._closed = True
            self._lines.put(None)
            child, self._child = self._child, None
            for trial in list(self._trials.values()):
                self._end(trial, Verdict("the service stops", False))
        if child is not None:
            child.kill()
        if self._listener is not None:
            self._listener.join()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def _recall(self, digest: bytes) -> Verdict | None:
        for remembered in (self._known, self._dear):
            if digest in remembered:
                remembered.move_to_end(digest)
                return remembered[digest]
        return None

    def _remember(self, digest: bytes, verdict: Verdict, seconds: float) -> None:
        """What passed but took long is known only as long as an engine knows it: that would compile it again."""
        dear = verdict.fault is None and seconds > SCHEMA_DEAR_SECONDS
        remembered, most = (self._dear, SCHEMA_DEAR_VERDICTS) if dear else (self._known, SCHEMA_VERDICTS)
        remembered[digest] = verdict
        while len(remembered) > most:
            remembered.popitem(last=False)

    def _enter(self, digest: bytes, key: str, request: dict[str, Any]) -> _Trial:
        queue = self._queues.get(key, ())
        if self._closed or len(queue) >= SCHEMAS_WAITING_OF_KEY or len(self._trials) >= SCHEMAS_WAITING:
            raise CapacityError("too many schemas wait to be compiled", hint="ask again in a few seconds")
        self._count += 1
        trial = _Trial(self._count, digest, key, {"id": self._count, **request})
        self._trials[digest] = trial
        self._queues.setdefault(key, deque()).append(trial)
        return trial

    def _start_some(self) -> None:
        """Have the next schemas compiled, a key's one after another's."""
        late = time.monotonic() - 2 * SCHEMA_PATIENCE
        for trial in list(self._running.values()):
            if trial.began < late and trial.child is not None:
                trial.child.kill()
        while self._queues and len(self._running) < SCHEMAS_AT_ONCE:
            key, queue = next(iter(self._queues.items()))
            trial = queue.popleft()
            self._queues.move_to_end(key)
            if not queue:
                del self._queues[key]
            trial.began = time.monotonic()
            self._running[trial.id] = trial
            self._say(trial.asked)

    def _say(self, line: dict[str, Any]) -> None:
        """Have a line written to the process, in a thread: it may have to be started, or be busy."""
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="schemas-out", daemon=True)
            self._writer.start()
        self._lines.put(line)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            for _ in range(2):  # the process may have ended just now
                try:
                    child = self._child_for(line.get("id"))
                    if child is not None and child.stdin is not None:
                        child.stdin.write(json.dumps(line).encode() + b"\n")
                        child.stdin.flush()
                    break
                except (OSError, ValueError):
                    with self._lock:
                        self._child = None
            else:
                with self._lock:
                    trial = self._running.get(line.get("id", 0))
                    if trial is not None:
                        self._end(trial, Verdict("the compiler of schemas does not start", False))
                        self._start_some()

    def _child_for(self, ident: int | None) -> subprocess.Popen[bytes] | None:
        """The process that a line is for: one is started for a schema, and none to cancel something."""
        with self._lock:
            trial = None if ident is None else self._running.get(ident)
            if self._closed or (ident is not None and trial is None):
                return None
            if self._child is None and trial is not None:
                self._child = self._start()
            if trial is not None:
                trial.child = self._child
            return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        # no accelerator, no network, no threads of libraries: they do not survive a fork
        settings = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment = {**os.environ, **settings, "OMP_NUM_THREADS": "1"}
        pipe, devnull = subprocess.PIPE, subprocess.DEVNULL
        child = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=devnull, env=environment)
        self._listener = threading.Thread(target=self._listen, args=(child,), name="schemas-in", daemon=True)
        self._listener.start()
        return child

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Take in what one process says, to its end."""
        for line in child.stdout or ():
            message = json.loads(line)
            with self._lock:
                trial = self._running.get(message["id"])
                if trial is not None:
                    verdict = Verdict(message["fault"], message["sure"])
                    if verdict.sure:
                        self._remember(trial.digest, verdict, message["seconds"])
                    self._end(trial, verdict)
                    self._start_some()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with self._lock:
            self._child = None if self._child is child else self._child
            for trial in list(self._running.values()):
                if trial.child is child:
                    self._end(trial, Verdict("the compiler of schemas has ended", False))
            self._start_some()

    def _end(self, trial: _Trial, verdict: Verdict) -> None:
        self._running.pop(trial.id, None)
        self._trials.pop(trial.digest, None)
        for future in trial.futures:
            if future.set_running_or_notify_cancel():
                future.set_result(verdict)

    def _left(self, trial: _Trial) -> None:
        """Somebody waits no more: with nobody left, the work is taken away."""
        with self._lock:
            if self._trials.get(trial.digest) is not trial or not all(each.cancelled() for each in trial.futures):
                return
            del self._trials[trial.digest]
            if self._running.pop(trial.id, None) is not None:
                self._say({"cancel": trial.id})
            elif trial.key in self._queues:
                self._queues[trial.key].remove(trial)
                if not self._queues[trial.key]:
                    del self._queues[trial.key]
            self._start_some()

    def _size(self, model: str) -> int:
        if model not in self._sizes:
            self._sizes[model] = vocabulary_size(model)
        return self._sizes[model]


def vocabulary_size(model: str) -> int:
    """The rows of a checkpoint's output layer, perhaps more than its tokenizer knows. Raises `CheckpointError`."""
    path = Path(model) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return int((config.get("text_config") or config)["vocab_size"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: no vocab_size in it ({type(error).__name__})") from error


def depth_of(schema: Any) -> int:
    """The nesting depth of lists and objects in a schema; anything beyond the bound counts as slightly more than it."""
    deepest, waiting = 0, [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, dict | list) or depth > SCHEMA_DEPTH + 1:
            continue
        deepest = max(deepest, depth)
        waiting += [(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value)]
    return deepest
