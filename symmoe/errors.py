"""Every error that symmoe raises on purpose.

    SymmoeError
    ├── ConfigError            what the user wrote cannot be used
    │   ├── PoolError          a pool file, or a file that it names
    │   ├── RecipeError        a training recipe
    │   ├── RecordsError       a directory of recorded answers
    │   └── InputError         a file of questions
    │       └── SuiteError     its answers
    ├── CheckpointError        weights missing, altered, truncated or of the wrong shape
    ├── CapacityError          memory that was set aside cannot hold what it is asked to hold
    ├── RequestError           one request or batch line cannot be served
    ├── JobError               a batch job cannot start or go on
    │   └── ErrorLimitError    too many of its lines failed
    ├── StoreError             the store cannot be reached or started
    │   └── StoreRefusedError  it answers, and does not do what it was asked
    ├── EngineError            the inference engine failed
    │   └── EngineLostError    its process has died, or was ended because it hung
    └── CollectiveError        ranks that load together lost one of them, or a chunk

A message says what is wrong and where; `hint` says what to do about it.
"""

from __future__ import annotations

from typing import Self


class SymmoeError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line and its hint as another.

    `expert` names the one that failed, where one did while a plan ran: what others were asked is not touched.
    `attempts` says how often it was tried, and `unloaded` that it could not be made ready.
    """

    exit_code = 1
    expert: str = ""
    attempts: int = 1
    unloaded: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def of(self, expert: str, attempts: int = 1, unloaded: bool = False) -> Self:
        """The same, known to be a failure of that expert."""
        self.expert, self.attempts, self.unloaded = expert, attempts, unloaded
        return self


class ConfigError(SymmoeError):
    """What the user wrote cannot be used."""

    exit_code = 2


class PoolError(ConfigError):
    """A pool file, or a file that it names, cannot be used."""


class RecipeError(ConfigError):
    """A training recipe cannot be used."""


class RecordsError(ConfigError):
    """A directory of recorded answers, or what is imported into one, cannot be used."""


class InputError(ConfigError):
    """A file of questions cannot be read, or it is not said how."""


class SuiteError(InputError):
    """A file of questions with known answers cannot be used."""


class CheckpointError(SymmoeError):
    """Weights are missing, altered, truncated or of the wrong shape."""

    exit_code = 2


class CapacityError(SymmoeError):
    """Memory that was set aside, or should be, cannot hold what it is asked to hold."""

    exit_code = 2


class RequestError(SymmoeError):
    """One request cannot be served.

    `code` is the machine-readable reason, `param` the field at fault, `status` what HTTP calls it, and `retry_after`
    the seconds after which asking again may help.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        status: int = 400,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code, self.param, self.status, self.retry_after = code, param, status, retry_after


class JobError(SymmoeError):
    """A batch job cannot start or go on."""

    exit_code = 2


class ErrorLimitError(JobError):
    """More of a batch job's lines failed than it may have."""

    exit_code = 4


class StoreError(SymmoeError):
    """The store cannot be reached or started."""


class StoreRefusedError(StoreError):
    """The store answers, and does not do what it was asked."""


class EngineError(SymmoeError):
    """The inference engine failed."""


class EngineLostError(EngineError):
    """An engine's process has died, or was ended because it hung. What it had not given can be asked of a new one."""


class CollectiveError(SymmoeError):
    """Ranks that load together lost one of them, or a chunk; `rank` and `chunk` are the ones at fault, where known."""

    def __init__(
        self, message: str, *, rank: int | None = None, chunk: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.rank = rank
        self.chunk = chunk


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
