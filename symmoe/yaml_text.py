"""YAML by libyaml, which reads it ten times as fast, where PyYAML was built with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEP = 5_000
"""Levels that libyaml's loader surely bears; some 20,000 more and its stack is at an end, and the process with it."""


def load_yaml(text: str) -> Any:
    """The one document of a text; None if it is empty. Raises `yaml.YAMLError`."""
    return _loaded(text, yaml.load)


def load_yamls(text: str) -> list[Any]:
    """The documents of a text. Raises `yaml.YAMLError`."""
    documents: list[Any] = _loaded(text, lambda text, loader: list(yaml.load_all(text, loader)))
    return documents


def _loaded(text: str, load: Callable[[str, Any], Any]) -> Any:
    """By libyaml or, of what that does not take, by PyYAML itself, which takes more and says better what is wrong."""
    try:
        if not _may_be_deep(text):
            return load(text, _LOADER)
    except yaml.YAMLError:
        pass
    try:
        return load(text, yaml.SafeLoader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _may_be_deep(text: str) -> bool:
    """Whether a text may nest more than `_DEEP` levels: by brackets, or by what opens several in one line."""
    return text.count("[") + text.count("{") > _DEEP or any(
        line.count("- ") + line.count("? ") + line.count(": ") > _DEEP for line in text.splitlines()
    )
