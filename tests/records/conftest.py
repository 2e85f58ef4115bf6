"""Small records: three experts, each right about its own skill."""

from __future__ import annotations

from pathlib import Path

import pytest

from symmoe.records.files import AskedQuestion, RecordedAnswer, Records, write_records
from symmoe.types import Message

from ..conftest import SKILLS, echo_pool

EXPERTS = ("adder", "speaker", "sorter")


def recorded(count: int = 12, known: bool = True) -> Records:
    """Question `n` needs the n-th skill; the expert of that skill says A, which is right, the others B."""
    questions, answers = [], {expert: dict[str, RecordedAnswer]() for expert in EXPERTS}
    for number in range(count):
        ident, place = f"q{number}", number % len(SKILLS)
        turns = (Message("user", f"{SKILLS[place]} {number}\n(A) yes\n(B) no"),)
        questions.append(AskedQuestion(ident, turns, "A" if known else None, SKILLS[place], "choice"))
        for own, expert in enumerate(EXPERTS):
            letter = "A" if own == place else "B"
            answers[expert][ident] = RecordedAnswer(f"The answer is ({letter}).", 5 + own, 20, 0.25, 1.5)
    return Records(tuple(questions), answers)


@pytest.fixture
def records() -> Records:
    return recorded()


@pytest.fixture
def directory(tmp_path: Path, records: Records) -> Path:
    write_records(tmp_path / "records", records)
    return tmp_path / "records"


@pytest.fixture
def pool_file(tmp_path: Path, directory: Path) -> Path:
    """A pool that answers from the records, and whose profiles know who is good at what."""
    return echo_pool(
        tmp_path / "pool", EXPERTS, engine={"kind": "recorded", "records": str(directory)}, routing={"top_p": 1.0}
    )
