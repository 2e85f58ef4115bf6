"""The taxonomy: which skills there are, in words that people read and an embedder compares."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symmoe.errors import PoolError
from symmoe.types import Skill


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=40)
    description: str = Field(min_length=1)
    examples: list[str] = []


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    skills: list[_Entry] = Field(min_length=1)


def read_taxonomy(path: Path) -> tuple[Skill, ...]:
    """Read a taxonomy file; `PoolError` names the file and the entry at fault."""
    try:
        entries = _Document.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).skills
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
    return tuple(Skill(entry.name, entry.description, tuple(entry.examples)) for entry in entries)
