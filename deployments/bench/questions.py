"""What the crowds ask: questions of the families, or for a pool of echoes any words."""

from __future__ import annotations

from itertools import cycle, islice

from symmoe.config import Pool
from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import mixed_suite


def texts(pool: Pool, count: int, seed: int) -> list[str]:
    """So many questions; distinct ones as far as the families go."""
    per_family = -(-count // len(FAMILIES))
    asked = [question.question for question in mixed_suite(list(FAMILIES), per_family, "test", seed)]
    if pool.engine.kind == "echo":
        asked = [f"sums {number} of {seed}" for number in range(count)]
    return list(islice(cycle(asked), count))
