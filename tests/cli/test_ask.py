"""`symmoe ask` about an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ..conftest import echo_pool
from .conftest import Symmoe


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A pool of three, of which the sorter alone sees."""
    return echo_pool(tmp_path, more={"sorter": {"images": True}})


def test_an_image_goes_to_an_expert_that_sees_whatever_the_question_calls_for(
    symmoe_command: Symmoe, seeing: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "red.png", tmp_path / "blue.jpg"]
    for file in files:
        Image.new("RGB", (4, 4), file.stem).save(file)
    shown = [word for file in files for word in ("--image", file)]
    trace = symmoe_command("ask", "sums", "--pool", seeing, *shown, "--json").json["trace"]
    assert trace["recruited"] == ["sorter"]
    named = symmoe_command("ask", "sums", "--pool", seeing, "--model", "adder", *shown)
    assert (named.code, named.errors) == (
        2,
        ["error: expert 'adder' cannot see images; the pool file says which can (`images: true`)"],
    )


def test_a_question_in_another_encoding_is_one_error(symmoe_command: Symmoe, seeing: Path) -> None:
    said = symmoe_command("ask", b"caf\xe9?".decode("utf-8", "surrogateescape"), "--pool", seeing)
    assert (said.code, len(said.errors), "not UTF-8" in said.err) == (2, 1, True)


@pytest.mark.parametrize("content", [b"no image", b"", None], ids=["text", "empty", "missing"])
def test_what_is_no_image_is_told_by_its_name(
    symmoe_command: Symmoe, seeing: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "picture.png"
    if content is not None:
        file.write_bytes(content)
    said = symmoe_command("ask", "sums", "--pool", seeing, "--image", file)
    assert said.code == 2
    (error,) = said.errors
    assert str(file) in error
