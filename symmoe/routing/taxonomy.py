"""The taxonomy: the list of skills, described in words that people read and an embedder compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.errors import PoolError
from symmoe.types import Skill
from symmoe.yaml_text import load_yaml


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=40, pattern=r"^[^:]+$")
    description: str = Field(min_length=1)
    examples: list[str] = []
    facet: str = ""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    skills: list[_Entry] = Field(min_length=1)


class _Dumper(yaml.SafeDumper):
    pass


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text with a line break that is not a newline is kept whole only in double quotes."""
    style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


def write_taxonomy(path: Path, skills: Sequence[Skill], about: str) -> None:
    """Write a taxonomy, which `read_taxonomy` reads back equal; `about` becomes a comment at its head."""
    entries = [
        {k: v for k, v in _Entry(name=s.name, description=s.description, examples=list(s.examples), facet=s.facet)
         .model_dump().items() if v}
        for s in skills
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump({"skills": entries}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.write_text("".join(f"# {line}\n" for line in about.splitlines()) + text, encoding="utf-8")


def read_taxonomy(path: Path) -> tuple[Skill, ...]:
    """Read a taxonomy file. Raises `PoolError`, naming the file and the entry at fault."""
    try:
        entries = _Document.model_validate(load_yaml(path.read_text(encoding="utf-8"))).skills
    except OSError as error:
        raise PoolError(f"taxonomy {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PoolError(f"taxonomy {path}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise PoolError(f"taxonomy {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PoolError(f"taxonomy {path}: {', '.join(twice)} stands there twice")
    return tuple(Skill(entry.name, entry.description, tuple(entry.examples), entry.facet) for entry in entries)
