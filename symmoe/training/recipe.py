"""Recipes: everything that decides what a trained adapter becomes."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from symmoe.errors import RecipeError
from symmoe.questions.families import FAMILIES


class Recipe(BaseModel):
    """One expert's training recipe, read from YAML.

    `tasks` are family names; the rest are the usual LoRA and optimiser settings. `first_layer` leaves the layers below
    it untouched: their backward pass is skipped and the adapter is smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str
    tasks: list[str] = Field(min_length=1)
    seed: int = Field(ge=0, lt=1_000_000)
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0, default=16)
    learning_rate: float = Field(gt=0, default=2e-3)
    warmup_steps: int = Field(ge=0, default=20)
    rank: int = Field(gt=0, default=8)
    alpha: int = Field(gt=0, default=16)
    first_layer: int = Field(ge=0, default=0)

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        unknown = sorted(set(tasks) - set(FAMILIES))
        if unknown:
            raise ValueError(f"unknown tasks {unknown}; known are {sorted(FAMILIES)}")
        return tasks


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file; `RecipeError` names the file and the field at fault."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from error
