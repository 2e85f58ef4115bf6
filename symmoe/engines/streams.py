"""Calls that join and leave vLLM while it runs, and their text as it is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from symmoe.types import Delta, Generation, TokenLogprob

UNKNOWN = "error"
"""The finish reason of what ended for no reason that was given."""
LEAST_LOGPROB = -9999.0
"""What stands for a token that could not have come, as OpenAI has it: JSON has no infinity."""


class Stripped:
    """Streams text without the whitespace at its ends, holding back what may be the end until more text comes."""

    def __init__(self) -> None:
        self.whole = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that can be passed on now."""
        text = self._held + text
        if not self.whole:
            text = text.lstrip()
        released = text.rstrip()
        self._held = text[len(released) :] if released or self.whole else ""
        self.whole += released
        return released


@dataclass(slots=True)
class _Open:
    text: Stripped = field(default_factory=Stripped)
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    top: int = 0


class OpenCalls:
    """The calls that one vLLM engine is generating, each begun and ended separately."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def add(self, engine: Any, ident: str, prompt: dict[str, Any], params: Any, lora: Any, stream: bool) -> None:
        """Add a call to vLLM. Raises `ValueError` for what vLLM refuses."""
        from vllm.sampling_params import RequestOutputKind

        params.output_kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        engine.add_request(ident, prompt, params, lora_request=lora)
        self._open[ident] = _Open(top=params.logprobs or 0)

    def step(self, engine: Any) -> list[Delta]:
        """Run one step of vLLM and return what it added to each call."""
        if not engine.has_unfinished_requests():
            return []
        return [self._delta(output) for output in engine.step() if output.request_id in self._open]

    def abort(self, engine: Any, idents: Sequence[str]) -> None:
        """Abort these calls."""
        known = [ident for ident in idents if self._open.pop(ident, None) is not None]
        if known:
            engine.abort_request(known)

    def clear(self) -> None:
        """Forget every call, after their engine has ended."""
        self._open.clear()

    def _delta(self, output: Any) -> Delta:
        ident, best = output.request_id, output.outputs[0]
        call = self._open[ident]
        call.tokens += len(best.token_ids)
        text, logprobs = call.text.feed(best.text), token_logprobs(best, call.top)
        call.logprobs += logprobs
        if not output.finished:
            return Delta(ident, text, logprobs=logprobs)
        del self._open[ident]
        tokens = len(output.prompt_token_ids or ()), call.tokens
        reason, stop = best.finish_reason or UNKNOWN, stop_sequence(best)
        generation = Generation(call.text.whole, reason, *tokens, tuple(call.logprobs), stop)
        return Delta(ident, text, generation, logprobs)


def token_logprobs(best: Any, top: int) -> tuple[TokenLogprob, ...]:
    """The text tokens of a vLLM completion with their log-probabilities; empty where none were asked for.

    Each comes with the `top` likeliest tokens at its place. A token that ended the completion is not text.
    """
    if not best.logprobs:
        return ()
    tokens = list(best.token_ids)
    if best.finish_reason == "stop" and not isinstance(best.stop_reason, str):
        tokens = tokens[:-1]
    return tuple(_token(token, logprobs, top) for token, logprobs in zip(tokens, best.logprobs, strict=False))


def stop_sequence(best: Any) -> str | None:
    """The stop sequence that ended a vLLM completion, or None."""
    return best.stop_reason if isinstance(best.stop_reason, str) else None


def _token(token: int, found: Any, top: int) -> TokenLogprob:
    """`found` has the token that was drawn, however unlikely, beside the likeliest ones."""
    ranked = sorted(found.values(), key=lambda each: each.rank)
    likeliest = tuple(_said(each) for each in ranked if each.rank <= top)
    return TokenLogprob(*_said(found[token]), likeliest)


def _said(found: Any) -> tuple[str, float]:
    return found.decoded_token or "", max(found.logprob, LEAST_LOGPROB)
