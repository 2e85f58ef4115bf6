"""Files that hold one JSON object: configs, indexes and cards beside weights, profiles, rules, manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError, SymmoeError


def read_json(path: Path, fault: type[SymmoeError] = CheckpointError, hint: str | None = None) -> dict[str, Any]:
    """A JSON object. Raises `fault`, with `hint`, if the file cannot be read or holds anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise fault(f"{path}: cannot be read ({error.strerror})", hint=hint) from error
    except ValueError as error:
        raise fault(f"{path}: not JSON ({error})", hint=hint) from error
    if not isinstance(document, dict):
        raise fault(f"{path}: not a JSON object", hint=hint)
    return document
