"""`docs/security.md` names every fixed bound, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from symmoe import limits

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def test_every_fixed_bound_stands_on_the_page_on_security() -> None:
    named = set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {name for name in vars(limits) if name.isupper()}


def test_every_bound_has_its_reason() -> None:
    source = Path(str(limits.__file__)).read_text(encoding="utf-8")
    bare = re.findall(r'^([A-Z_]+) = .*\n(?!""")', source, re.MULTILINE)
    assert bare == []
