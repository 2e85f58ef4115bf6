"""Tags skills in a separate process, for engines so fast that a batch would wait for its own interpreter."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TypeGuard

from symmoe.config import Pool
from symmoe.routing.static import StaticEmbedder
from symmoe.routing.tagging import EmbeddingTagger, Named, distinct_of, readings, skills_of
from symmoe.types import Query, SkillMatch, Skills

_Plain = list[tuple[list[tuple[str, float]], tuple[str, ...], bytes]]


class NamingProcess:
    """A `Tagger` that runs in another process, which ends with this one in any case. For one thread at a time.

    It replaces a pool's own tagger, which takes the work back if the process dies. What `begin` was given is named
    meanwhile, and `tag` waits for it.
    """

    def __init__(self, pool: Pool, own: EmbeddingTagger) -> None:
        self._own = own
        self._connection: Connection | None = None
        self._awake, self._begun = False, False
        parent_end, child_end = socket.socketpair()
        with child_end:
            command = [sys.executable, "-P", "-m", "symmoe.batch.naming", str(child_end.fileno())]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C is for whoever started it
            )
        self._connection = Connection(parent_end.detach())
        self._connection.send(pool)

    @staticmethod
    def serves(tagger: object) -> TypeGuard[EmbeddingTagger]:
        """Whether this helps: there is a second core, and this tagger holds the interpreter, which torch's does not."""
        several = len(os.sched_getaffinity(0)) > 1
        return several and isinstance(tagger, EmbeddingTagger) and isinstance(tagger.embedder, StaticEmbedder)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether the process is there, with its models loaded: until then it would only be waited for."""
        if not self._awake and self._connection is not None and self._connection.poll():
            self._awake = self._received() is not None
        return self._awake and self._connection is not None

    def begin(self, queries: Sequence[Query]) -> None:
        """Have these named while something else is done; `tag` must be asked for the same next."""
        self._begun = self._send(distinct_of(map(readings, queries)))

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query, as the pool's own tagger finds them."""
        return skills_of(queries, self._name)

    def close(self) -> None:
        """End the process at once: it holds nothing that anybody needs."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._process.kill()
            self._process.wait()

    def _name(self, texts: Sequence[str]) -> list[Named]:
        begun, self._begun = self._begun, False
        reply = self._received() if begun or self._send(texts) else None
        if reply is None:
            return self._own.name(texts)
        return [(tuple(SkillMatch(*each) for each in topics), facets, vector) for topics, facets, vector in reply]

    def _send(self, texts: Sequence[str]) -> bool:
        """Whether there was somebody to send texts to."""
        self._awake = self._awake or self._received() is not None
        if self._connection is None:
            return False
        try:
            self._connection.send(texts)
        except OSError:
            self.close()
        return self._connection is not None

    def _received(self) -> _Plain | None:
        """What the process has to say, nothing once it is ready, then what it found; None if it died."""
        if self._connection is None:
            return None
        try:
            said: _Plain = self._connection.recv()
        except (OSError, EOFError):
            self.close()
            return None
        return said


def _plain(named: Sequence[Named]) -> _Plain:
    """Without objects of ours, which take ten times as long on their way; equal facets are one."""
    facets: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [
        ([(topic.skill, topic.similarity) for topic in topics], facets.setdefault(own_facets, own_facets), vector)
        for topics, own_facets, vector in named
    ]


def _serve(connection: Connection) -> None:
    """Name skills until the other end is closed."""
    from symmoe.build import build_embedder, build_tagger

    pool: Pool = connection.recv()
    tagger = build_tagger(pool, build_embedder(pool))
    tagger.name([""])  # which loads the models
    connection.send([])
    while True:
        try:
            texts: Sequence[str] = connection.recv()
        except EOFError:
            return
        connection.send(_plain(tagger.name(texts)))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
