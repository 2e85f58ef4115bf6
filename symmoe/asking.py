"""A pool as Python code uses it: opened, asked, closed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from symmoe.build import Assembly, check_weights, fetch_weights, pool_for_machine
from symmoe.config import Pool, read_pool
from symmoe.errors import InputError, RequestError
from symmoe.images import looked_at
from symmoe.limits import IMAGE_BYTES
from symmoe.pipeline import UNWATCHED, Watch, answer
from symmoe.policy import AUTO, Aggregate, Policy, catalogue, known_model, policy_for
from symmoe.types import Message, Outcome, Picture, Query, Refusal, Sampling, Trace


class OpenPool:
    """An open pool, whose engine, once started, runs until `close` or the end of the `with` block."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._assembly = Assembly(pool)

    def answer(
        self,
        questions: Sequence[str | Query],
        model: str = AUTO,
        *,
        k: int | None = None,
        budget: float | None = None,
        aggregate: Aggregate | None = None,
        quality: float | None = None,
        seed: int = 0,
        explain: bool = False,
    ) -> list[Trace | Refusal]:
        """A trace holding the answer, or a refusal, for each question, in order; each expert is loaded once.

        `model` is `symmoe/auto`, `symmoe/fast`, `symmoe/best` or an expert's name; the options are those of a request.
        Raises `RequestError` for an unknown model and for an empty question.
        """
        policy = policy_for(self.pool, known_model(catalogue(self.pool), model), k, budget, aggregate, quality)
        return list(self.outcome(questions, policy, seed=seed, explain=explain).results)

    def outcome(
        self,
        questions: Sequence[str | Query],
        policy: Policy,
        *,
        seed: int = 0,
        explain: bool = False,
        watch: Watch = UNWATCHED,
    ) -> Outcome:
        """The same under a policy, with what the run took; `watch` is called as it proceeds."""
        queries = [
            query_of(self.pool, each, f"question-{number}") if isinstance(each, str) else each
            for number, each in enumerate(questions)
        ]
        return answer(self._assembly.parts(), queries, policy, seed, watch=watch, explain=explain)

    def close(self) -> None:
        """Stop the engine, if there is one, and free its memory."""
        self._assembly.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def open_pool(name: str = "starter") -> OpenPool:
    """The pool called `name`: starter, tiny, a preset, or the path of a pool file.

    Its files are verified, and those of the starter pool fetched the first time; nothing is loaded yet. If memory is
    too small for the starter pool, a warning says so and the tiny one is opened. Raises `PoolError`, `CheckpointError`.
    """
    fitting, word = pool_for_machine(name)
    if word:
        warnings.warn(word, stacklevel=2)
    pool = read_pool(fitting)
    fetch_weights(pool)
    check_weights(pool)
    return OpenPool(pool)


def query_of(pool: Pool, question: str, ident: str = "question", images: Sequence[Path] = ()) -> Query:
    """A question with the pool's sampling, preceded by the images in these files.

    Raises `RequestError` for an empty question, and `InputError` for a file without an image or with too large a one.
    """
    if not question.strip():
        raise RequestError("the question is empty", code="empty_prompt")
    try:
        question.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are none
        raise RequestError(f"the question is not UTF-8 ({error})", code="invalid_text") from error
    defaults = pool.sampling
    sampling = Sampling(defaults.max_tokens, defaults.temperature, defaults.top_p)
    return Query(ident, (Message("user", question, images=tuple(map(_picture, images))),), sampling)


def _picture(path: Path) -> Picture:
    try:
        if path.stat().st_size > IMAGE_BYTES:
            raise InputError(f"{path} is larger than {IMAGE_BYTES >> 20} MiB", hint="make the image smaller")
        return Picture(looked_at(path.read_bytes()), 0)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="give a PNG, JPEG, WebP or GIF") from error
    except RequestError as error:
        raise InputError(f"{path}: {str(error).removeprefix('image_url: ')}") from error
