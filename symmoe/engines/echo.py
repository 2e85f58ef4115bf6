"""A deterministic engine with no model, for unit tests of everything around an engine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from symmoe.records.files import Records
from symmoe.types import Call, Delta, Generation, Image, Prompt, Query, Refusal, Sampling, TokenLogprob


class EchoEngine:
    """Answers every prompt with the name of the weights that are loaded and the prompt itself."""

    def __init__(self, window: int = 4096) -> None:
        self._window = window
        self._model: str | None = None
        self._weights = ""
        self._open: dict[str, list[str]] = {}
        self._whole: dict[str, Generation] = {}
        self.started = 0
        self.swaps = 0

    @property
    def model(self) -> str | None:
        """The model given to `start`."""
        return self._model

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuse prompts of more words than the window."""
        return [
            Refusal(query.id, "context_length_exceeded", f"longer than {self._window} words", self._window)
            if len(query.text) >= self._window and len(query.text.split()) >= self._window
            else None
            for query in queries
        ]

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Take the name of the model as the weights."""
        self.started += 1
        self._model, self._weights = model, Path(model).name

    def wake(self, model: str) -> bool:
        """Always False: no other engine sleeps beside this one."""
        return False

    def swap(self, image: Image) -> int:
        """Take the name of the image as the weights."""
        self.swaps += 1
        self._model, self._weights = image.model, Path(image.key).name
        return len(self._weights)

    def rebind(self, key: str, model: str) -> bool:
        """Always False: it holds no earlier weights."""
        return False

    def adapt(self, adapter: str | None) -> bool:
        """Whether an adapter is applied in the engine; here adapters are merged."""
        return False

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Does nothing: there is nothing to prepare."""

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Echo, last call first: nothing may rely on the order in which calls finish."""
        for call in reversed(calls):
            yield call, self._answer(call.query)

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Echo to this query too, a word with each step."""
        (refusal,) = self.refuse([query])
        if refusal is None:
            self._whole[ident] = self._answer(query)
            self._open[ident] = re.findall(r"\s*\S+|\s+$", self._whole[ident].text) or [""]
        return refusal

    def step(self) -> list[Delta]:
        """The next word of every call."""
        deltas = [self._next(ident, words) for ident, words in self._open.items()]
        self.abort([delta.id for delta in deltas if delta.generation])
        return deltas

    def _next(self, ident: str, words: list[str]) -> Delta:
        whole = self._whole[ident]
        word, place = words.pop(0), len(whole.logprobs) - len(words) - 1
        return Delta(ident, word, None if words else whole, whole.logprobs[place : place + 1] if whole.logprobs else ())

    def abort(self, idents: Sequence[str]) -> None:
        """Forget these calls."""
        for ident in idents:
            self._open.pop(ident, None)
            self._whole.pop(ident, None)

    def stats(self) -> None:
        """Always None: nothing is counted."""

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def suspend(self) -> int:
        """Frees nothing; returns the length of the weights' name as the bytes kept."""
        return len(self._weights)

    def resume(self) -> None:
        """Does nothing: nothing was freed."""

    def close(self) -> None:
        """Forget the weights."""
        self._model, self._weights = None, ""
        self.abort(list(self._open))

    def _answer(self, query: Query) -> Generation:
        question, images = query.text, len(query.images)
        name, words = f"{self._weights}: ", _words(question)
        text = f"{name}{question}".strip() + " [image]" * images
        return Generation(text, "stop", words, len(name.split()) + images + words, _logprobs(text, query.sampling))


@lru_cache(4096)
def _words(text: str) -> int:
    """How many words a text has; experts are asked the same ones, one after the other."""
    return len(text.split())


def _logprobs(text: str, sampling: Sampling) -> tuple[TokenLogprob, ...]:
    """Each word is a token; the longer, the less likely."""
    if sampling.top_logprobs is None:
        return ()
    words = re.findall(r"\s*\S+", text)
    likeliest = [tuple((f"{word}{n}", -float(len(word) + n)) for n in range(sampling.top_logprobs)) for word in words]
    return tuple(TokenLogprob(word, -float(len(word)), top) for word, top in zip(words, likeliest, strict=True))


class RecordedEngine(EchoEngine):
    """Answers a conversation with the loaded expert's recorded answer to it, whatever the sampling.

    Here a model's name is its expert's. What is not on record becomes a failed generation, which is left out beside
    others. Unrecorded counts of completion tokens are estimated from the text.
    """

    def __init__(self, records: Records) -> None:
        super().__init__()
        self._records = records

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuses nothing: everything was answered before."""
        return [None] * len(queries)

    def _answer(self, query: Query) -> Generation:
        recorded = self._records.answer(self._weights, query.messages)
        if recorded is None:
            return Generation("", "error", 0, 0)
        return Generation(recorded.text, recorded.finish_reason, recorded.prompt_tokens or 0, recorded.tokens)
