"""The process that compiles schemas before an engine sees them: it can be killed, and an engine cannot.

It reads lines of JSON: `{"id", "model", "vocabulary", "schema", "form"}` to try a schema on the vocabulary of a
checkpoint's tokenizer, `{"cancel": id}` to stop. It writes one line for each that was not cancelled: `{"id", "fault",
"sure", "seconds"}`. `fault` says what is wrong with the schema, or is null; if `sure` is false, checking itself failed.

Each schema is compiled in a fork of this process, which has the libraries and the vocabulary in memory, with bounds on
time and memory. The process ends when its input ends, and so with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from symmoe.limits import (
    SCHEMA_BYTES,
    SCHEMA_CPU_SECONDS,
    SCHEMA_READ_SECONDS,
    SCHEMA_STEP_SECONDS,
    SCHEMA_WALL_SECONDS,
)
from symmoe.types import Form

_PR_SET_PDEATHSIG = 1
_WALKS, _STEPS = 4, 32
_TRUNK = 1 << 16
_LOOK_SECONDS = 5.0
TOO_LONG = f"it takes more than {SCHEMA_CPU_SECONDS} s to compile"
TOO_LARGE = f"it takes more than {SCHEMA_BYTES >> 20} MiB to compile"
DEADLY = "the compiler breaks down on it"
_UNREADABLE = "it takes too long to read"
_EMPTY = "no text can follow it"
_TORN = "the compiler makes a grammar of it that contradicts itself"
_SLOW = "it takes too long to follow for each token"
_CHECK = "the compiler cannot take it; patterns that repeat something more than 128 times are known for that"


class Vocabulary:
    """A checkpoint's vocabulary in xgrammar's form, and which of its tokens show or close something."""

    def __init__(self, model: str, size: int) -> None:
        import numpy as np
        import xgrammar

        self.info = xgrammar.TokenizerInfo.deserialize_json(_read_apart(model, size))
        self.size = size
        words = [token.strip() for token in self.info.decoded_vocab]
        self.visible = np.array([bool(word) for word in words])
        self.closing = np.array([word[:1] in (b'"', b"}", b"]", b",") for word in words])


def _read_apart(model: str, size: int) -> str:
    """A vocabulary as xgrammar writes it, read in a fork: what reads tokenizers would keep 220 MB here for ever."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            import xgrammar
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
            with open(write_fd, "w", encoding="utf-8") as file:
                file.write(xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size).serialize_json())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, encoding="utf-8") as file:
        written = file.read()
    os.waitpid(pid, 0)
    return written


def fault_of(vocabulary: Vocabulary, schema: str, form: Form = "json") -> str | None:
    """What is wrong with a schema when used as vLLM's engine would use it; None if nothing is.

    Some matching text is drawn at random, since a grammar that compiles may still allow nothing, or stall the engine at
    every token.
    """
    import xgrammar

    began = time.process_time()
    try:
        grammar = _READ[form](xgrammar.Grammar, schema)
        if time.process_time() - began > SCHEMA_READ_SECONDS:
            return _UNREADABLE
        compiler = xgrammar.GrammarCompiler(vocabulary.info, max_threads=1, cache_enabled=True)
        compiled = compiler.compile_grammar(grammar)
        for seed in range(_WALKS):
            fault = _walk(vocabulary, compiled, seed)
            if fault:
                return fault
    except MemoryError:
        return TOO_LARGE
    except Exception as error:  # xgrammar raises what its parts raise
        return _in_words(str(error))
    return None


_READ: dict[Form, Callable[[Any, str], Any]] = {
    "json": lambda grammar, text: grammar.from_json_schema(text, any_whitespace=True),
    "regex": lambda grammar, text: grammar.from_regex(text),
    "ebnf": lambda grammar, text: grammar.from_ebnf(text),
}
"""How xgrammar reads each form."""


def _walk(vocabulary: Vocabulary, compiled: Any, seed: int) -> str | None:
    """Draw a text token by token: every other walk closes what it can, and so gets round more of the schema."""
    import numpy as np
    import xgrammar

    random = np.random.default_rng(seed)
    matcher = xgrammar.GrammarMatcher(compiled)
    mask = xgrammar.allocate_token_bitmask(1, vocabulary.size)
    taken, steps = 0.0, 0
    while steps < _STEPS and not matcher.is_terminated():
        began = time.process_time()
        matcher.fill_next_token_bitmask(mask, 0)
        taken += time.process_time() - began
        allowed = np.unpackbits(mask.numpy().view(np.uint8)[0], bitorder="little")[: vocabulary.size].astype(bool)
        if not allowed.any():
            return _EMPTY if steps == 0 else _TORN
        wanted = [vocabulary.closing, vocabulary.visible] if seed % 2 else [vocabulary.visible]
        likely = next((some for kind in wanted if (some := allowed & kind).any()), allowed)
        token, began = int(random.choice(np.flatnonzero(likely))), time.process_time()
        if not matcher.accept_token(token):
            return _TORN
        taken += time.process_time() - began
        steps += 1
    return _SLOW if taken > _STEPS * SCHEMA_STEP_SECONDS else None


def _in_words(message: str) -> str:
    """The compiler's own words without the place in its source."""
    if "bad_alloc" in message:
        return TOO_LARGE
    if "Check failed" in message or not message.strip():
        return _CHECK
    first_line = re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", message.strip()).splitlines()[0]
    return first_line[:200].rstrip(".")


@dataclass(slots=True)
class _Trial:
    """One schema that is being compiled in the process `pid`, which says what it found through the pipe `out`."""

    id: int
    pid: int
    out: int
    due: float
    printed: bytes = b""
    late: bool = field(default=False)


class Trials:
    """The running forks. `tell` is called with each verdict."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        self._trials: dict[int, _Trial] = {}
        self._vocabularies: dict[tuple[str, int], Vocabulary] = {}
        self._input = b""

    def run(self) -> None:
        """Work until the input ends or the parent process dies."""
        parent = os.getppid()
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)
        while os.getppid() == parent and self.wait(self._pause()):
            for trial in list(self._trials.values()):
                if time.monotonic() >= trial.due:
                    trial.late = True
                    os.kill(trial.pid, signal.SIGKILL)
                    trial.due = float("inf")

    def wait(self, seconds: float) -> bool:
        """Process input and verdicts of forks for up to `seconds`. False once the input has ended."""
        for key, _ in self._selector.select(seconds):
            if key.fd == 0:
                if not self._take_in():
                    return False
            elif key.data.id in self._trials:
                self._hear(key.data)
        return True

    def end(self) -> None:
        """Cancel every fork."""
        for trial in list(self._trials.values()):
            self._cancel(trial.id)

    def _pause(self) -> float:
        due = min((trial.due for trial in self._trials.values()), default=float("inf"))
        return max(0.0, min(due - time.monotonic(), _LOOK_SECONDS))

    def _take_in(self) -> bool:
        """Whether there may be more to come."""
        read = os.read(0, _TRUNK)
        *lines, self._input = (self._input + read).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "cancel" in request:
                self._cancel(request["cancel"])
            else:
                self.begin(request)
        return bool(read)

    def begin(self, asked: dict[str, Any]) -> None:
        """Compile a requested schema in a fork of its own."""
        vocabulary_key = asked["model"], asked["vocabulary"]
        try:
            if vocabulary_key not in self._vocabularies:
                self._vocabularies[vocabulary_key] = Vocabulary(*vocabulary_key)
        except Exception as error:  # a tokenizer's files raise what they like
            fault = f"the tokenizer cannot be read: {type(error).__name__}"
            self._tell({"id": asked["id"], "fault": fault, "sure": False, "seconds": 0.0})
            return
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            _in_fork(self._vocabularies[vocabulary_key], asked["schema"], asked.get("form", "json"), write_fd)
        os.close(write_fd)
        trial = _Trial(asked["id"], pid, read_fd, time.monotonic() + SCHEMA_WALL_SECONDS)
        self._trials[trial.id] = trial
        self._selector.register(read_fd, selectors.EVENT_READ, trial)

    def _hear(self, trial: _Trial) -> None:
        chunk = os.read(trial.out, _TRUNK)
        trial.printed += chunk
        if chunk:
            return
        status, used = self._forget(trial)
        verdict = {"id": trial.id, "fault": None, "sure": True, "seconds": used}
        if trial.late:
            self._tell({**verdict, "fault": "there was no time to compile it", "sure": False})
        elif status == 0 and trial.printed:
            self._tell({**verdict, "fault": json.loads(trial.printed)})
        else:
            slow = os.WIFSIGNALED(status) and (os.WTERMSIG(status) == signal.SIGXCPU or used >= SCHEMA_CPU_SECONDS)
            self._tell({**verdict, "fault": TOO_LONG if slow else DEADLY})

    def _cancel(self, ident: int) -> None:
        trial = self._trials.get(ident)
        if trial is not None:
            os.kill(trial.pid, signal.SIGKILL)
            self._forget(trial)

    def _forget(self, trial: _Trial) -> tuple[int, float]:
        """Its exit status, and the seconds of a core that it used."""
        del self._trials[trial.id]
        self._selector.unregister(trial.out)
        os.close(trial.out)
        _, status, used = os.wait4(trial.pid, 0)
        return status, used.ru_utime + used.ru_stime


def _in_fork(vocabulary: Vocabulary, schema: str, form: Form, out: int) -> None:
    """Find the fault within bounds, say it, and end."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SCHEMA_CPU_SECONDS, SCHEMA_CPU_SECONDS + 1))
        with open("/proc/self/statm", encoding="ascii") as statm:
            room = int(statm.read().split()[0]) * resource.getpagesize() + SCHEMA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        os.write(out, json.dumps(fault_of(vocabulary, schema, form)).encode())
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Serve requests on standard input until it ends."""
    stdout_fd = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no verdict

    def tell(verdict: dict[str, Any]) -> None:
        os.write(stdout_fd, json.dumps(verdict).encode() + b"\n")

    import xgrammar  # noqa: F401  # seconds, which the first schema would be charged for

    trials = Trials(tell)
    try:
        trials.run()
    finally:
        trials.end()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its parent, which Ctrl-C reaches too
    main()
