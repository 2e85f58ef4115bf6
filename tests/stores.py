"""The store's server as its operator reaches it, past what symmoe makes of it."""

from __future__ import annotations

import redis

from symmoe.store import running_server


def connected() -> redis.Redis:
    """A client of the embedded server, which is started if need be."""
    return redis.Redis(unix_socket_path=str(running_server()))
