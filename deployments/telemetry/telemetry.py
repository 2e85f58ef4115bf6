"""Telling of requests that are over, in all the ways that are switched on."""

from __future__ import annotations

from symmoe.errors import ConfigError

from ..settings import Settings
from .logs import RequestLog
from .note import Note, messages_of
from .trace_store import KeptTraces
from .traces import Traces, traces_of_environment

_LOGS = ("none", "json")


class Telemetry:
    """A log, traces that are sent, and traces that are `kept`, each of which may be None."""

    def __init__(self, log: RequestLog | None = None, traces: Traces | None = None, prompts: bool = False) -> None:
        self._log, self._traces, self._prompts = log, traces, prompts
        self.kept: KeptTraces | None = None

    @classmethod
    def of(cls, settings: Settings) -> Telemetry:
        """What the settings and the environment say. Raises `ConfigError`."""
        if settings.log not in _LOGS:
            raise ConfigError(f"log: {settings.log!r} is no kind of log", hint=f"there are: {', '.join(_LOGS)}")
        log = RequestLog(settings.log_file) if settings.log == "json" else None
        return cls(log, traces_of_environment(settings.log_prompts), settings.log_prompts)

    def over(self, note: Note) -> None:
        """A request is over."""
        note.end()
        if self.kept is not None:
            self.kept.add(note)
        trace = None if self._traces is None else self._traces.record(note)
        if self._log is None:
            return
        facts = note.facts()
        if trace is not None:
            facts["trace"] = trace
        if self._prompts and note.query is not None:
            facts["messages"] = messages_of(note.query)
        self._log.write(facts)

    def close(self) -> None:
        """Send and write what is left. Blocks for a few seconds at most."""
        if self._traces is not None:
            self._traces.close()
        if self._log is not None:
            self._log.close()
