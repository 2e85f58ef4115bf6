"""Calls that join and leave vLLM while it runs, and their text as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from symmoe.types import Delta, Generation

UNKNOWN = "error"
"""The finish reason of what ended for no reason that was given."""


class Stripped:
    """Passes text on without the whitespace at its ends: what may yet be the end is held back until more comes."""

    def __init__(self) -> None:
        self.whole = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be passed on now."""
        text = self._held + text
        if not self.whole:
            text = text.lstrip()
        given = text.rstrip()
        self._held = text[len(given) :] if given or self.whole else ""
        self.whole += given
        return given


@dataclass(slots=True)
class _Open:
    text: Stripped = field(default_factory=Stripped)
    tokens: int = 0


class OpenCalls:
    """The calls that one vLLM engine is generating for, each begun and ended on its own."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def add(self, engine: Any, ident: str, prompt: Sequence[int], params: Any, lora: Any, stream: bool) -> None:
        """Give vLLM one more call. Raises `ValueError` for what vLLM would not take."""
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        engine.add_request(ident, {"prompt_token_ids": list(prompt)}, params, lora_request=lora)
        self._open[ident] = _Open()

    def step(self, engine: Any) -> list[Delta]:
        """One step of vLLM; what it added to each call."""
        if not engine.has_unfinished_requests():
            return []
        return [self._delta(output) for output in engine.step() if output.request_id in self._open]

    def abort(self, engine: Any, idents: Sequence[str]) -> None:
        """End these calls."""
        known = [ident for ident in idents if self._open.pop(ident, None) is not None]
        if known:
            engine.abort_request(known)

    def clear(self) -> None:
        """Forget every call: their engine is no more."""
        self._open.clear()

    def _delta(self, output: Any) -> Delta:
        ident, best = output.request_id, output.outputs[0]
        call = self._open[ident]
        call.tokens += len(best.token_ids)
        text = call.text.feed(best.text)
        if not output.finished:
            return Delta(ident, text)
        del self._open[ident]
        prompt = len(output.prompt_token_ids or ())
        return Delta(ident, text, Generation(call.text.whole, best.finish_reason or UNKNOWN, prompt, call.tokens))
