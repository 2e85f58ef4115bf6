"""Reading tensors of checkpoint files straight into memory, on several threads: no copy in between."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from symmoe.errors import CheckpointError
from symmoe.loading.headers import StoredTensor
from symmoe.loading.packed.digests import cores

_PIECE = 8 << 20


def copied(targets: Iterable[tuple[StoredTensor, memoryview]]) -> Iterator[int]:
    """Read each tensor into the memory beside it, which is as long; gives bytes as they are done.

    Raises `CheckpointError` if a file ends early or cannot be read.
    """
    with ExitStack() as opened, ThreadPoolExecutor(max(2, cores())) as threads:
        files: dict[Path, int] = {}
        jobs = []
        for stored, memory in targets:
            if stored.file not in files:
                files[stored.file] = opened.enter_context(stored.file.open("rb", buffering=0)).fileno()
            for at in range(0, stored.nbytes, _PIECE):
                piece = memory[at : at + _PIECE]
                jobs.append(threads.submit(_read, files[stored.file], stored.offset + at, piece, stored))
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _read(descriptor: int, at: int, memory: memoryview, stored: StoredTensor) -> int:
    done = 0
    while done < memory.nbytes:
        try:
            count = os.preadv(descriptor, [memory[done:]], at + done)
        except OSError as error:
            raise CheckpointError(f"{stored.file}: cannot be read ({error.strerror})") from error
        if not count:
            raise CheckpointError(f"{stored.file}: ends inside of {stored.name!r}: it was cut while it was read")
        done += count
    return done
