"""A cache of generated answers, used whenever the same is asked again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from symmoe.errors import InputError
from symmoe.protocols import Executor
from symmoe.types import Assignment, Call, Candidate, Load, Plan, Query, Refusal, to_json


@dataclass(frozen=True, slots=True)
class _Entry:
    """What came of one call, and the seconds that it took."""

    candidate: Candidate
    seconds: float

    def to(self, call: Call) -> list[Candidate]:
        """A candidate for each assignment that a call serves; the first bears its tokens."""
        return [
            replace(self.candidate, query_id=a.query_id, expert=a.expert, slot=a.slot, shared=number > 0)
            for number, a in enumerate(call.serves)
        ]


class KeptAnswers:
    """An executor that has `executor` generate only what was never generated before.

    A call is identified by `weights_of` its expert, its messages and its sampling, seed included; so a stopped run
    continues, and a larger one reuses what a smaller one made. With a `path` each answer is appended there as a line
    before it is used; a partial last line is cut off. Failed calls are not kept.
    """

    def __init__(self, executor: Executor, weights_of: Callable[[str], str], path: Path | None = None) -> None:
        self._executor, self._weights_of, self._path = executor, weights_of, path
        self._said = {} if path is None else dict(_read(path))
        self._seconds: dict[Assignment, float] = {}

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """For each query, why an expert could never answer it, or None."""
        return self._executor.refuse(queries, expert)

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Yield what is kept, then run the rest of the plan."""
        keys = {call.serves[0]: self._key(call) for step in plan.steps for call in step.calls}
        calls = {call.serves[0]: call for step in plan.steps for call in step.calls}
        for first, call in calls.items():
            if entry := self._said.get(keys[first]):
                yield self._given(call, entry)
        left = [
            replace(step, calls=tuple(call for call in step.calls if keys[call.serves[0]] not in self._said))
            for step in plan.steps
        ]
        began = time.perf_counter()
        for event in self._executor.run(Plan(tuple(step for step in left if step.calls))):
            now = time.perf_counter()
            if not isinstance(event, Load):
                first, entry = event[0].assignment, _Entry(event[0], now - began)
                self._keep(keys[first], entry)
                event = self._given(calls[first], entry)
            began = now
            yield event

    def seconds(self, candidate: Candidate) -> float:
        """Seconds that a candidate took since the one before it, so that those of a step add up to the step's."""
        return self._seconds.get(candidate.assignment, 0.0)

    def _given(self, call: Call, entry: _Entry) -> list[Candidate]:
        self._seconds[call.serves[0]] = entry.seconds
        return entry.to(call)

    def _key(self, call: Call) -> str:
        content = repr((self._weights_of(call.expert), call.expert, call.query.messages, call.query.sampling))
        return hashlib.sha256(content.encode()).hexdigest()

    def _keep(self, key: str, entry: _Entry) -> None:
        if entry.candidate.finish_reason == "error":
            return
        self._said[key] = entry
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = {"key": key, "seconds": entry.seconds, "candidate": to_json(entry.candidate)}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _read(path: Path) -> Iterator[tuple[str, _Entry]]:
    """The answers of a file."""
    if not path.is_file():
        return
    written = path.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        path.write_bytes(whole)
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], 1):
        try:
            row: dict[str, Any] = json.loads(line)
            yield row["key"], _Entry(Candidate.from_json(row["candidate"]), row["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: line {number} is no kept answer ({error})", hint="delete the file to have all asked anew"
            ) from error
