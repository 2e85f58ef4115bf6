"""How many answers of a batch are right, read from its output: by skill, and by the expert whose words they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symmoe.errors import RequestError
from symmoe.profiles.marking import is_right
from symmoe.questions.suites import known_question
from symmoe.rows.reading import Rows
from symmoe.rows.shapes import Reading

_OWN = "symmoe_"


@dataclass(slots=True)
class Accuracy:
    """Right answers among those whose answer is known; `unknown` rows have none, or were not answered."""

    right: int = 0
    graded: int = 0
    unknown: int = 0
    by_skill: dict[str, list[int]] = field(default_factory=dict)
    by_expert: dict[str, list[int]] = field(default_factory=dict)

    def add(self, right: bool, skill: str, expert: str) -> None:
        """One more graded answer."""
        self.right += right
        self.graded += 1
        for groups, name in ((self.by_skill, skill), (self.by_expert, expert)):
            tally = groups.setdefault(name or "none", [0, 0])
            tally[0] += right
            tally[1] += 1

    @property
    def report(self) -> dict[str, Any]:
        """The same as plain JSON types: of each group how many are right, and of how many."""
        return {
            "right": self.right,
            "graded": self.graded,
            "unknown": self.unknown,
            "by_skill": self.by_skill,
            "by_expert": self.by_expert,
        }


def accuracy(output: Path, reading: Reading) -> Accuracy:
    """Grade the rows of an output that have columns of their own, one by one; `reading` says where answers are."""
    found = Accuracy()
    for row in Rows([output]):
        graded = _graded(row.row, reading) if isinstance(row.row, dict) else None
        if graded is None:
            found.unknown += 1
        else:
            found.add(graded, row.row.get(f"{_OWN}skill") or "", row.row.get(f"{_OWN}expert") or "")
    return found


def _graded(row: Mapping[str, Any], reading: Reading) -> bool | None:
    ours = f"{_OWN}answer" if f"{_OWN}answer" in row else "answer"
    said = row.get(ours)
    if not isinstance(said, str) or not row.get(f"{_OWN}expert"):
        return None
    own = {name: value for name, value in row.items() if name != ours and not name.startswith(_OWN)}
    try:
        question = known_question(own, reading, "")
    except RequestError:
        return None
    return None if question is None else is_right(said, question)
