from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from symmoe.cli.render import table

COUNT = "123456789012"


@pytest.mark.parametrize("columns", [80, 200])
def test_cells_of_whole_columns_lose_no_digit(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = StringIO()
    drawn = table("Counts", [f"c{n}" for n in range(7)], [[COUNT] * 7], whole=range(7))
    Console(width=columns, file=shown).print(drawn)
    cells = [line.split("│")[1].strip() for line in shown.getvalue().splitlines() if line.startswith("│")]
    assert "".join(cells) == COUNT
    assert (len(cells) == 1) == (columns == 200)
