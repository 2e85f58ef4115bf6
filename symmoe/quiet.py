"""Keeps libraries' output off the user's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symmoe.private import private_folder, private_opener, tighten


@contextmanager
def output_to(log: Path, shared: bool = False) -> Iterator[None]:
    """Append what is printed during the block to a log file, at file-descriptor level, so from native code too.

    Only this user may read the log, or enter its folder unless that is `shared`.
    """
    if shared:
        log.parent.mkdir(parents=True, exist_ok=True)
    else:
        private_folder(log.parent)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(log, "ab", opener=private_opener) as sink:
        tighten(log)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
