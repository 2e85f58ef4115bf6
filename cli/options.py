"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Pool = Annotated[str, typer.Option("--pool", help="starter, a preset's name, or a pool file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
K = Annotated[int | None, typer.Option("--k", min=1, max=64, help="Experts drawn for each question; else the pool's.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=999_999, help="Decides every random choice.")]
