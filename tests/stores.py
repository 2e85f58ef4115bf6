"""Stores that tests start: where they stand, and their server as its operator reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from symmoe.store import embedded_socket, running_server, stop_embedded


@contextmanager
def own_state(folder: Path, cache: bool = True) -> Iterator[Path]:
    """A state directory in a folder, and a cache unless the user's own will do; no `REDIS_URL`.

    A store that is started there is stopped at the end.
    """
    state = folder / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMMOE_STATE", str(state))
        if cache:
            patch.setenv("SYMMOE_CACHE", str(folder / "cache"))
        patch.delenv("REDIS_URL", raising=False)
        try:
            yield state
        finally:
            patch.setenv("SYMMOE_STATE", str(state))
            if embedded_socket().exists():
                stop_embedded()
            if embedded_socket().parent != state:
                embedded_socket().parent.rmdir()


@contextmanager
def state_in(folder: Path) -> Iterator[Path]:
    """The same with a store that is flushed with every write: nothing waits for its next second."""
    with own_state(folder) as state, connected() as server:
        server.config_set("appendfsync", "always")
        yield state


def connected() -> redis.Redis:
    """A client of the embedded server, which is started if need be."""
    return redis.Redis(unix_socket_path=str(running_server()))
