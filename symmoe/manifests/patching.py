"""Patches of manifests: RFC 6902 operations, and strategic merges of mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from symmoe.errors import ConfigError

DELETE = {"$patch": "delete"}


def apply_operations(document: Any, operations: Sequence[Mapping[str, Any]], where: str) -> Any:
    """The document after `add`, `replace` and `remove` (RFC 6902). `ConfigError` for a place that is not there."""
    result = deepcopy(document)
    for operation in operations:
        try:
            _apply(result, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {operation.get('op')} {operation.get('path')}: no such place") from error
    return result


def merge(document: Mapping[str, Any], patch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The document with a patch laid over it; None takes a key out. Lists in it are refused: their rules differ."""
    result = dict(document)
    for key, value in patch.items():
        if isinstance(value, list):
            raise ConfigError(f"{where}: {key} is a list", hint="change lists with operations: op, path, value")
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merge(below if isinstance(below, Mapping) else {}, value, where)
        else:
            result[key] = value
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> None:
    *above, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    for part in above:
        document = document[int(part)] if isinstance(document, list) else document[part]
    name = operation["op"]
    value = deepcopy(operation.get("value"))
    if isinstance(document, list):
        _apply_to_list(document, name, last, value)
    elif name == "add" or (name == "replace" and last in document):
        document[last] = value
    elif name == "remove":
        del document[last]
    else:
        raise KeyError(last)


def _apply_to_list(items: list[Any], name: str, place: str, value: Any) -> None:
    if name == "add":
        items.insert(len(items) if place == "-" else int(place), value)
    elif name == "replace":
        items[int(place)] = value
    elif name == "remove":
        del items[int(place)]
    else:
        raise ValueError(name)
