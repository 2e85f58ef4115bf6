"""Files beside weights that hold one JSON object: configs, indexes, cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `CheckpointError` if the file cannot be read or holds anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return document
