from __future__ import annotations

import re
from base64 import b64decode
from typing import Any
from xml.etree import ElementTree

import pytest

from symmoe.evaluation.quality.compare import compare
from symmoe.evaluation.quality.html import render
from symmoe.evaluation.quality.names import NAMES

from .conftest import Hall, suite


@pytest.fixture
def report(hall: Hall) -> dict[str, Any]:
    return compare(hall.contest(questions=1).assembly, {"<script>": suite(3)}, 2, 0, 0.7, None, 2)


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314  (our own page)


def test_the_page_is_well_formed_and_has_a_row_for_every_way(report: dict[str, Any]) -> None:
    page = parsed(render(report))
    first = page.findall(".//table")[0]
    assert [row[0].text for row in first.findall("tr")[1:]] == [NAMES[name] for name in report["ways"]]
    assert all(len(row) == 8 for row in first.findall("tr"))


def test_the_page_needs_nothing_beside_it(report: dict[str, Any]) -> None:
    page = render(report)
    assert not re.search(r"https?:|<link|<script|@import|url\(", page)
    pictures = [image.attrib["src"] for image in parsed(page).iter("img")]
    assert len(pictures) == 3
    for picture in pictures:
        assert b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_names_from_files_are_escaped(report: dict[str, Any]) -> None:
    assert "&lt;script&gt; (3)" in render(report)
