"""Names of files and batches: ours alone, unguessable, and in the order in which they were made."""

from __future__ import annotations

import re
import secrets
import time

FILE, BATCH = "file-", "batch_"
_FORM = re.compile(r"(?:file-|batch_)[0-9a-f]{32}")


def new_id(prefix: str) -> str:
    """A name nobody else has: the time in microseconds, then 72 random bits. Names sort by their age."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether a text may be such a name, and so be part of a path or a key."""
    return text.startswith(prefix) and _FORM.fullmatch(text) is not None
