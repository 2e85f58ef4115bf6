from __future__ import annotations

from pathlib import Path

from .conftest import Symmoe


def test_explain_shows_the_weights_of_candidates_as_they_are(symmoe_command: Symmoe, pool: Path) -> None:
    verdicts = symmoe_command("ask", "sums 1", "--pool", pool, "--json").json["trace"]["verdicts"]
    shown = symmoe_command("ask", "sums 1", "--pool", pool, "--explain").out
    header, *lines = shown.partition("Candidates")[2].partition("Vote")[0].splitlines()[2:]
    assert [cell.strip() for cell in header.split("┃")[1:4]] == ["expert", "lane", "weight"]
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if line.startswith("│")]
    weights = {row[1]: row[3] for row in rows if row[1]}
    assert weights == {verdict["expert"]: f"{verdict['weight']:.2f}" for verdict in verdicts}
