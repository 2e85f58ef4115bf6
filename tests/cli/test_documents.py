"""Every `symmoe` command that README and docs write is one that there is, with options that it takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import whole_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`((?:\.venv/bin/)?symmoe [^`]+)`")
ENDS = {"|", "||", "&&", ";", "&", ">", "<", "#"}
"""Words of a shell after which a command of another program begins, or none."""


def commands(text: str) -> Iterator[str]:
    """What stands in blocks, a line each, and between backticks."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.findall(r"(?:^|-- |\| |&& |\(|[A-Z_]+=\S* )((?:\.venv/bin/)?symmoe [a-z].*)", line)
    yield from QUOTED.findall(BLOCK.sub("", text))


def words(command: str) -> list[str]:
    """A command's words up to the end of it, without what a page leaves out (`…`)."""
    lexer = shlex.shlex(command.replace("[", "").replace("]", ""), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if word in ENDS or word == "…":
            break
        found.append(word)
    return found[1:]


def faults(command: str) -> list[str]:
    """What is wrong with a command: words that name no command, and options that it does not take."""
    known, given, taken = whole_command(), words(command), {"--help"}
    while hasattr(known, "commands") and given and not given[0].startswith("-"):
        name = given.pop(0)
        if name not in known.commands:
            return [f"no command {name!r}"]
        known = known.commands[name]
    for option in known.params:
        taken |= {*option.opts, *option.secondary_opts}
    options = [word.split("=")[0] for word in given if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)]
    return [f"no option {option!r}" for option in options if option not in taken]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_there(page: Path) -> None:
    wrong = {command: found for command in commands(page.read_text()) if (found := faults(command))}
    assert not wrong


def test_a_command_or_an_option_that_is_not_there_is_found() -> None:
    page = "```bash\n.venv/bin/symmoe batch run in.jsonl --fast   # quick\n```\nand `symmoe boil water`."
    assert [faults(command) for command in commands(page)] == [["no option '--fast'"], ["no command 'boil'"]]
